"""What several test modules share: runs as processes, tiny configs, fixed rows, the PyTorch side."""
