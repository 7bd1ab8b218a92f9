"""Devices by their names."""


def make_teleoperator_from_config(config):
    return config.make(config)
