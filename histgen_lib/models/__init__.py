"""The networks. Nothing here imports torch until a network is asked for."""
