// Gets the bytes of halting.py; the socket may be idle for three seconds.
import http from "node:http";

const request = http.get(process.argv[2], (response) => {
  let count = 0;
  response.on("data", (piece) => (count += piece.length));
  response.on("end", () => process.exit(count === 40000 ? 0 : 1));
});
request.setTimeout(3000, () => {
  console.error("timed out");
  process.exit(3);
});
