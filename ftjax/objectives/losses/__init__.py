"""What objectives are made of: losses, advantages, sequence statistics."""
