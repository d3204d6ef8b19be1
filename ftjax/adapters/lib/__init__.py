"""What methods are made of: the protocol, matrices, rotations, initialisations."""
