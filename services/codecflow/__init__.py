"""CodecFlow: questions about live video, answered by vision-language models on Apache Kafka."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # without importing typing: see __main__
    from typing import Any

    from .api import ask, publish, subscribe

__version__ = "0.1.0"
__all__ = ["__version__", "ask", "publish", "subscribe"]


def __getattr__(name: str) -> Any:
    """The functions of codecflow.api, imported on first use: `import codecflow` alone is cheap."""
    if name in ("ask", "publish", "subscribe"):
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
