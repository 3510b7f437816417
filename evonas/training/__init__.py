"""Plain PyTorch: data, augmentation, the training loop, and what a network costs."""
