"""The option discover_packages_path: LeRobot imports a package and its modules."""

import importlib
import pkgutil


def load_plugin(path):
    package = importlib.import_module(path)
    for module in pkgutil.iter_modules(package.__path__, f"{path}."):
        importlib.import_module(module.name)
