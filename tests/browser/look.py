"""Looks at a page in a headless Chromium, as a person would see it.

look.py FILE: prints a line of JSON with what is there: what it loaded and said, what it drew and where, and
what a click on the first denial opens.
"""
import asyncio
import json
import pathlib
import subprocess
import sys
import tempfile

import websockets

page = pathlib.Path(sys.argv[1]).resolve().as_uri()

LOOK = """(() => {
  const box = it => { const b = it.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; };
  const is_shown = it => it.checkVisibility() && box(it)[2] > 0 && box(it)[3] > 0;
  const all = query => [...document.querySelectorAll(query)];
  const names = all('#map text').map(it => [it.firstChild.data, box(it)]);
  const svg = box(document.querySelector('#map svg'));
  return {
    title: document.title,
    headings: all('h1, h2').filter(is_shown).map(it => it.innerText),
    scripts: document.scripts.length,
    edges: all('#map path.edge').filter(it => it.getTotalLength() > 0).length,
    bad: all('#map path.bad').map(it => getComputedStyle(it).stroke),
    names: names.map(it => it[0]),
    outside: names.filter(([_, b]) => b[0] < svg[0] - 1 || b[0] + b[2] > svg[0] + svg[2] + 1).map(it => it[0]),
    bars: all('#latency .bar').filter(it => box(it)[3] > 0).length,
    rows: all('#pairs tbody tr').filter(is_shown).length,
    asked: all('#names tbody tr').filter(is_shown).map(it => it.cells[0].innerText),
    wider: document.documentElement.scrollWidth > innerWidth,
    summary: box(document.querySelector('#denied summary')),
    policy: all('#denied pre').filter(is_shown).map(it => it.innerText),
  };
})()"""


async def look(address):
    async with websockets.connect(address, max_size=None) as socket:
        number, events = 0, []

        async def call(method, session=None, **params):
            nonlocal number
            number += 1
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            await socket.send(json.dumps(message))
            while True:
                answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
                if answer.get("id") == number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["result"]
                events.append(answer)

        target = (await call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await call(f"{domain}.enable", session)
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await call("Emulation.setDeviceMetricsOverride", session, **size)
        await call("Page.navigate", session, url=page)
        while not any(it["method"] == "Page.loadEventFired" for it in events):
            events.append(json.loads(await asyncio.wait_for(socket.recv(), 60)))

        async def seen():
            result = await call("Runtime.evaluate", session, expression=LOOK, returnByValue=True)
            if "exceptionDetails" in result:
                raise RuntimeError(result["exceptionDetails"])
            return result["result"]["value"]

        told = await seen()
        scroll = "document.querySelector('#denied summary').scrollIntoView({block: 'center'})"
        await call("Runtime.evaluate", session, expression=scroll)
        x, y, width, height = (await seen())["summary"]
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": x + min(width, 60) / 2, "y": y + height / 2}
            await call("Input.dispatchMouseEvent", session, type=kind, button="left", clickCount=1, **at)
        told["opened"] = (await seen())["policy"]
        told["picture"] = len((await call("Page.captureScreenshot", session))["data"])
        asked = [it["params"]["request"]["url"] for it in events if it["method"] == "Network.requestWillBeSent"]
        told["asked_for"] = [url for url in asked if url != page]
        said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        told["said"] = [it["params"] for it in events if it["method"] in said]
        await call("Browser.close")
        return told


with tempfile.TemporaryDirectory() as home:
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank"]
    browser = subprocess.Popen(["chromium", *flags], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        heard = []
        for line in browser.stderr:
            heard.append(line)
            if line.startswith("DevTools listening on "):
                address = line.split(" on ", 1)[1].strip()
                break
        else:
            sys.exit("chromium did not start:\n" + "".join(heard))
        print(json.dumps(asyncio.run(look(address)), ensure_ascii=False))
    finally:
        browser.kill()
        browser.wait()
