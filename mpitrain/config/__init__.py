"""What a run is made from: frozen models, read from TOML."""

from mpitrain.config.config import Config
from mpitrain.config.read import ConfigError, dump, load, recipes

__all__ = ["Config", "ConfigError", "dump", "load", "recipes"]
