"""Which requests the page takes."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="the page needs `pip install '.[app]'`")

from affectgpt_r1.inference.app.same_origin import SameOrigin


@pytest.mark.parametrize(
    ("headers", "loopback_only", "is_taken"),
    [
        ({"host": "127.0.0.1:7860"}, True, True),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, True, True),
        ({"host": "[::1]:7860", "origin": "http://[::1]:7860"}, True, True),
        ({"host": "127.0.0.1:7860", "origin": "http://evil.example"}, True, False),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:8000"}, True, False),  # another program's page
        ({"host": "127.0.0.1:7860", "origin": "null"}, True, False),  # a sandboxed frame
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, True, False),  # points at 127.0.0.1
        ({"host": "lab.example:7860", "origin": "http://lab.example:7860"}, False, True),
        ({"host": "lab.example:7860", "origin": "http://evil.example"}, False, False),
    ],
)
def test_a_request_is_taken_from_the_page_itself_only(headers, loopback_only, is_taken):
    answered = []

    async def page(scope, receive, send):
        answered.append("page")

    async def send(message):
        answered.append(message.get("status"))

    scope = {"type": "http", "headers": [(key.encode(), value.encode()) for key, value in headers.items()]}
    asyncio.run(SameOrigin(page, loopback_only=loopback_only)(scope, None, send))
    assert answered[0] == ("page" if is_taken else 403)
