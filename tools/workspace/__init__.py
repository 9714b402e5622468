"""The workspace as data: its packages, what they declare, and the rules that they keep.

Everything here runs on the standard library alone, so that it works before the first sync.
Each rule is one function that takes a `Workspace` and yields a `Violation` per broken place;
`tools/ws.py` is the command in front of them.
"""
