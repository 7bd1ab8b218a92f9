"""Devices by their names."""


def make_robot_from_config(config):
    return config.make(config)
