"""Answers what the broker asks of the cloud API about ins-a; signatures are checked elsewhere."""
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FLEET = "fleet-systemd1-aaaaaaaa"


class Cloud(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        action = self.headers["X-TC-Action"]
        found = {"FleetId": FLEET, "InstanceId": "ins-a", "IpAddress": "127.0.0.1", "OperatingSystem": "debian12"}
        if action == "GetInstanceAccess":
            credentials = {"UserName": "gse", "Secret": os.environ["SECRET"]}
            answer = {"InstanceAccess": {"Credentials": credentials, **found}}
        else:
            answer = {"Instances": [{**found, "Status": "ACTIVE"}], "TotalCount": 1}
        body = json.dumps({"Response": {**answer, "RequestId": "r"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", 8080), Cloud).serve_forever()
