"""As much of logind as a broker needs, on the bus of DBUS_SYSTEM_BUS_ADDRESS. SIGUSR1 announces
sleep and waits for the inhibitor; SIGUSR2 ends it. What happens is printed."""

import os
import signal
import time

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

MANAGER = "org.freedesktop.login1.Manager"


class Manager(dbus.service.Object):
    def __init__(self, bus):
        super().__init__(bus, "/org/freedesktop/login1")
        self.held = None

    @dbus.service.method(MANAGER, in_signature="ssss", out_signature="h")
    def Inhibit(self, what, who, why, mode):
        self.held, given = os.pipe()
        print(f"inhibited {what} {who} {mode}: {why}", flush=True)
        handle = dbus.types.UnixFd(given)
        os.close(given)
        return handle

    @dbus.service.signal(MANAGER, signature="b")
    def PrepareForSleep(self, start):
        pass


def sleep(manager):
    begun = time.monotonic()
    held, manager.held = manager.held, None
    manager.PrepareForSleep(True)

    def let_go(*_):  # the other end was closed by whoever had it
        os.close(held)
        print(f"asleep after {time.monotonic() - begun:.3f} s", flush=True)
        return False

    GLib.unix_fd_add_full(0, held, GLib.IOCondition.HUP, let_go)
    return True


def wake(manager):
    manager.PrepareForSleep(False)
    return True


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
name = dbus.service.BusName("org.freedesktop.login1", bus)
manager = Manager(bus)
GLib.unix_signal_add(0, signal.SIGUSR1, sleep, manager)
GLib.unix_signal_add(0, signal.SIGUSR2, wake, manager)
print("here", flush=True)
GLib.MainLoop().run()
