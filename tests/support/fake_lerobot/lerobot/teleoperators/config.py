# ruff: noqa: RUF012
"""The registry of devices."""


class TeleoperatorConfig:
    choices = {}

    @classmethod
    def get_known_choices(cls):
        return cls.choices
