package runtime

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// checkRoot refuses a state root that others can write to. Records say which
// processes are signalled, which cgroups are removed and which hooks are run: who
// can leave one there has us do it for them. What does not exist yet is made
// private.
func checkRoot(root string) error {
	var st unix.Stat_t
	if unix.Stat(root, &st) != nil {
		return nil // the first use says what is wrong
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return &StateRootError{root, "belongs to user " + strconv.FormatUint(uint64(st.Uid), 10)}
	}
	if st.Mode&0o022 != 0 {
		return &StateRootError{root, "has mode " + strconv.FormatUint(uint64(st.Mode&0o7777), 8) + ": others can write to it"}
	}
	return nil
}

// StateRootError reports a state root that is not safe to use.
type StateRootError struct{ Root, Reason string }

func (e *StateRootError) Error() string {
	return "state root " + strconv.Quote(e.Root) + " " + e.Reason
}

// Hint says what to do about it.
func (*StateRootError) Hint() string {
	return "records there could have minirun kill processes and run hooks for somebody else: use a directory of your own with mode 700, or be that user"
}
