package integration

import "golang.org/x/sys/unix"

// sysMkdir is the older of two calls that make a directory.
const sysMkdir = unix.SYS_MKDIR
