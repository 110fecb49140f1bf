"""A sanitizer as a program of its own: two words, each kept with probability 3/4, so epsilon is ln 3."""

import json
import secrets
import sys

WORDS = ["yes", "no"]
ABOUT = {"name": "coin", "epsilon": "1.0987", "adjacency": "part", "parts": [WORDS]}

for line in sys.stdin:
    request = json.loads(line)
    given = request["input"]
    asked = [given["token"]] * given["count"] if "token" in given else given.get("document", [])
    drawn = [word if secrets.randbelow(4) else WORDS[1 - WORDS.index(word)] for word in asked]
    print(json.dumps({"id": request["id"], "output": drawn if asked else ABOUT}), flush=True)
