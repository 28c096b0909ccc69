"""ftplib, passive: HOST FILE PATH-FOR-UPLOAD; fetches big, and stores it again."""
import ftplib
import sys

host, path, upload = sys.argv[1:]
with ftplib.FTP(host, timeout=60) as ftp:
    ftp.login()
    assert "big" in ftp.nlst()
    with open(path, "wb") as file:
        ftp.retrbinary("RETR big", file.write)
    with open(path, "rb") as file:
        ftp.storbinary(f"STOR {upload}", file)
