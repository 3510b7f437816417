"""What several search spaces share: layers, blocks, cells, supernets, costs."""
