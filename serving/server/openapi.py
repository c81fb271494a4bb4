"""The OpenAPI document of one served model: the routes that are there, with the contract as the requests' schema."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.serving.server.model import HeadwayModel


def document(model: "HeadwayModel") -> dict[str, Any]:
    """The document."""
    return {"openapi": "3.1.0", "info": {"title": model.name, "version": model.card.version}, "paths": {}}
