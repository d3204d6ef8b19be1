"""Trees, einsum letters, meshes, configs, keys and means: depends on nothing else in ftjax."""
