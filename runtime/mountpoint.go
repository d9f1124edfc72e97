package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// mountPoint is where the mount that path lies on is attached: the entry of
// /proc/self/mountinfo with the mount id that statx(2) tells (Linux 5.8).
func mountPoint(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", &os.PathError{Op: "statx", Path: path, Err: err}
	}
	raw, err := linux.ReadFile("/proc/self/mountinfo", 0)
	if err != nil {
		return "", err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range strings.SplitSeq(string(raw), "\n") {
		if f := strings.SplitN(line, " ", 6); len(f) == 6 && f[0] == id {
			return unescapeMount(f[4]), nil
		}
	}
	return "", fmt.Errorf("the mount of %q is not in /proc/self/mountinfo", path)
}

// unescapeMount undoes the octal escapes of blanks and backslashes in mountinfo.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
