"""How many machines a lab needs: measured rates, a plan, and a simulation that checks the plan."""
