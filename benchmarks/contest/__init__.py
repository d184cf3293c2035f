"""What `peers.py` is made of: the cells, an engine for each peer, the processes, the report."""
