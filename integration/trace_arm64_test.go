package integration

import "golang.org/x/sys/unix"

// sysMkdir is mkdirat(2): the older call does not exist here.
const sysMkdir = unix.SYS_MKDIRAT
