"""ftjax: fine-tune language models in JAX, and measure what they forget.

NNX to define, JAX to transform, adapters as values in a tree of their own, objectives as pure
functions, configs as functions. Nothing is imported here: `import ftjax` costs nothing, and each
room (`ftjax.models`, `ftjax.adapters`, ...) loads what it needs.
"""

__version__ = "0.1.0"
