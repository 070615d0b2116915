"""How many workers a load needs: the rules by which Kubernetes scales them."""
