"""The route of the server that the painter's import asks: one reader serves nodes and painter."""

from __future__ import annotations

import asyncio
import io

from aiohttp import web

from ..mdit import labelmap

PATH = "/mditface/label_map"
MOST_BYTES = 64 * 2 ** 20  # of a file; `web/painter/images.js` has the same limit


def add_routes(routes: web.RouteTableDef) -> None:
    routes.post(PATH)(read_label_map)


async def read_label_map(request: web.Request) -> web.Response:
    """Answers the bytes of an image file with its drawing, or with an error in words. No file is touched."""
    content = await request.clone(client_max_size=MOST_BYTES).read()
    return web.json_response(await asyncio.to_thread(answer_content, content))


def answer_content(content: bytes) -> dict:
    try:
        indices, notes, is_stencil = labelmap.read_file(io.BytesIO(content))
    except ValueError as error:
        return {"error": str(error).removeprefix("label_map: ")}
    return {"drawing": labelmap.encode_drawing(indices), "notes": notes, "isStencil": is_stencil}
