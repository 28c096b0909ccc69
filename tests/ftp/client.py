"""Python's ftplib: HOST passive|active retr|stor|list FILE."""

import ftplib
import sys

host, mode, operation, file = sys.argv[1:5]
with ftplib.FTP(host) as ftp:
    ftp.login()
    ftp.set_pasv(mode == "passive")
    if operation == "retr":
        with open(file, "wb") as out:
            ftp.retrbinary("RETR big", out.write)
    elif operation == "stor":
        with open(file, "rb") as source:
            ftp.storbinary("STOR in/put", source)
    else:
        with open(file, "w") as out:
            ftp.retrlines("NLST names", lambda line: out.write(line + "\n"))
