"""Finding passages: cut, indexed, searched, fused and measured; knows no model."""
