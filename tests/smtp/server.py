"""A mail server that takes mail as real ones do, or misbehaves as a file tells it to.

`server.py DIRECTORY` listens on a free port of this machine, writes the port to its standard output, and
adds a line of JSON to DIRECTORY/taken.ndjson for each mail that it has taken, read by Python's own parser. It
ends when its standard input does, so it never outlives the test that started it.

DIRECTORY/mode says what it does with the next mail:

    accept    takes it
    451       puts the recipient off
    550       refuses the recipient for good
    554       refuses the message for good
    sender    refuses the sender for good
    drop      takes it and closes the connection without an answer
    slow      takes it and answers after a minute
"""

import asyncio
import email
import email.policy
import json
import pathlib
import sys

from aiosmtpd.smtp import SMTP, AuthResult

LOGIN = (b"remit", b"open:sesame")


class Handler:
    def __init__(self, directory):
        self.directory = directory
        self.sessions = 0

    def mode(self):
        return (self.directory / "mode").read_text().strip()

    async def handle_MAIL(self, server, session, envelope, address, options):
        if self.mode() == "sender":
            return "553 5.7.1 this sender is not welcome"
        envelope.mail_from = address
        return "250 2.1.0 sender ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.mode() == "451":
            return f"451 4.7.1 {address} is greylisted"
        if self.mode() == "550":
            return f"550 5.1.1 {address} does not exist"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server, session, envelope):
        if self.mode() == "554":
            return "554 5.6.0 this looks like spam"
        self.take(session, envelope)
        if self.mode() == "drop":
            server.transport.abort()
        if self.mode() == "slow":
            await asyncio.sleep(60)
        return "250 2.0.0 taken"

    def take(self, session, envelope):
        if not hasattr(session, "number"):
            self.sessions += 1
            session.number = self.sessions
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: message.get_body(preferencelist=(kind,)).get_content()
        line = {
            "session": session.number,
            "user": getattr(session, "user", None),
            "envelope_from": envelope.mail_from,
            "envelope_to": envelope.rcpt_tos,
            "headers": [[name, str(value)] for name, value in message.items()],
            "content_type": message.get_content_type(),
            "parts": [inner.get_content_type() for inner in message.iter_parts()],
            "defects": [type(defect).__name__ for inner in message.walk() for defect in inner.defects],
            "text": part("plain"),
            "html": part("html"),
        }
        with open(self.directory / "taken.ndjson", "a") as taken:
            taken.write(json.dumps(line) + "\n")


def authenticate(server, session, envelope, mechanism, data):
    if (data.login, data.password) != LOGIN:
        return AuthResult(success=False, handled=False)
    session.user = data.login.decode()
    return AuthResult(success=True)


async def main(directory):
    handler = Handler(directory)
    make = lambda: SMTP(handler, authenticator=authenticate, auth_require_tls=False, hostname="mail.test")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, host="127.0.0.1", port=0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(main(pathlib.Path(sys.argv[1])))
