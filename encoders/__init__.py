"""Identity encoders: pure `torch.nn` networks with published parameter names, and the classes that own them."""
