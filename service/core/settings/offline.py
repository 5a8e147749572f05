"""Settings of a command without a server."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from service.core.settings import Settings


class OfflineSettings(Settings):
    """The values that a command gives, and defaults.

    Variables of the environment do not count: they belong to a server on the same machine.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments only."""
        return (init_settings,)
