"""Python's ftplib: HOST USER PASSWORD passive|active retr|stor|list FILE SECONDS."""

import ftplib
import sys
import time

host, user, password, mode, operation, file, idle = sys.argv[1:8]
with ftplib.FTP(host) as ftp:
    ftp.login(user, password)
    ftp.set_pasv(mode == "passive")
    time.sleep(float(idle))
    if operation == "retr":
        with open(file, "wb") as out:
            ftp.retrbinary("RETR big", out.write)
    elif operation == "stor":
        with open(file, "rb") as source:
            ftp.storbinary("STOR in/put", source)
    else:
        with open(file, "w") as out:
            ftp.retrlines("NLST names", lambda line: out.write(line + "\n"))
