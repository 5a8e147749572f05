"""Environment variables of the service: RESNET_SERVE_ and the name of a setting in capitals."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

from pydantic_settings import EnvSettingsSource

from models.suggestions import closest
from service.core.settings.former_names import ISOLATE_VARIABLE, RENAMED

log = logging.getLogger(__name__)

_LINK = re.compile(r"(tcp|udp|sctp)://")
"""Value of NAME_PORT that Kubernetes and Docker links set in every container beside a service with this name."""
_LINK_NAME = re.compile(r".*(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""Names of the other variables of such a link, all with the prefix of the service's name."""


class ServiceEnvironment(EnvSettingsSource):
    """Reads the settings of the environment, and warns of variables that are no setting.

    Empty variables are as if they were not set. Variables that Kubernetes sets for a Service named resnet-serve are
    left out: RESNET_SERVE_PORT, for example, is then `tcp://10.43.7.9:8000`.
    """

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        prefix = str(self.config.get("env_prefix"))
        if _LINK.match(str(values.get("port", ""))):
            log.warning(
                "%sPORT=%s is ignored: Kubernetes sets it for a Service named resnet-serve. "
                "`enableServiceLinks: false` in the pod, or another name of the Service, avoids this",
                prefix,
                values.pop("port"),
            )
        self._warn_of_unknown(prefix)
        return values

    def _warn_of_unknown(self, prefix: str) -> None:
        fields = [name.upper() for name in self.settings_cls.model_fields]
        known = {*fields, *(name.upper() for name in RENAMED), ISOLATE_VARIABLE}
        for variable in os.environ:
            name = variable.removeprefix(prefix)
            if name == variable or name in known or _LINK_NAME.fullmatch(name):
                continue
            close = closest(name, fields)
            hint = f"is {prefix}{close[0]} meant?" if close else "resnet-serve --help lists the settings"
            log.warning("%s is ignored: there is no such setting; %s", variable, hint)
