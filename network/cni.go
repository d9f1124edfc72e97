package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Networks of CNI plugins are made by minirund: what reads their configurations and
// runs them would slow down every start. What a container wants of them is a file
// beside its record, made before the first plugin runs and removed after the last.

// CNIFile is that file.
const CNIFile = "cni.json"

// CheckCNIName refuses what is no name of a CNI network.
func CheckCNIName(name string) error {
	ok := name != "" && len(name) <= 128
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return &store.NameError{Name: "cni:" + name, Reason: "want a letter or digit and then any of A-Z a-z 0-9 _ . -"}
	}
	return nil
}

// writeCNI records what the container wants of CNI networks.
func (a *Attachment) writeCNI(q *Request) error {
	b := jsonread.AppendInt([]byte(`{"version":`), 1)
	list := func(key string, n int, f func(i int) string) {
		b = append(jsonread.AppendKey(b, key), '[')
		for i := range n {
			b = jsonread.AppendString(jsonread.AppendComma(b), f(i))
		}
		b = append(b, ']')
	}
	list("networks", len(q.CNI), func(i int) string { return q.CNI[i] })
	list("aliases", len(q.Aliases), func(i int) string { return q.Aliases[i] })
	list("ips", len(q.IPs), func(i int) string { return q.IPs[i].String() })
	list("servers", len(q.DNS), func(i int) string { return q.DNS[i].String() })
	list("searches", len(q.Search), func(i int) string { return q.Search[i] })
	list("options", len(q.Options), func(i int) string { return q.Options[i] })
	if q.MAC != [6]byte{} {
		b = jsonread.AppendString(jsonread.AppendKey(b, "mac"), store.FormatMAC(q.MAC))
	}
	b = append(jsonread.AppendKey(b, "ports"), '[')
	for i := range a.record.Ports {
		p := &a.record.Ports[i]
		for n := range p.Count {
			b = append(jsonread.AppendComma(b), '{')
			b = jsonread.AppendUint(jsonread.AppendKey(b, "hostPort"), uint64(p.Host+n))
			b = jsonread.AppendUint(jsonread.AppendKey(b, "containerPort"), uint64(p.Container+n))
			b = jsonread.AppendString(jsonread.AppendKey(b, "protocol"), p.Protocol)
			if p.IP.IsValid() {
				b = jsonread.AppendString(jsonread.AppendKey(b, "hostIP"), p.IP.String())
			}
			b = append(b, '}')
		}
	}
	b = append(b, "]}\n"...)
	// Whole from its first moment on: nobody could take back what half of it says.
	path := a.host.Store.ContainerDir(a.record.Key) + "/" + CNIFile
	if err := writeFile(path+".tmp", b); err != nil {
		return err
	}
	return os.NewSyscallError("rename", unix.Rename(path+".tmp", path))
}

// CNIError is what minirund says about CNI networks.
type CNIError struct{ text, hint string }

func (e *CNIError) Error() string { return e.text }

// Hint says what to do; it may be empty.
func (e *CNIError) Hint() string { return e.hint }

// maxMessage bounds what is read of a message.
const maxMessage = 64 << 10

// CNILock is the number of the descriptor with the lock that minirund inherits.
const CNILock = 3

// lockCNI waits until nobody runs plugins for a container. The lock belongs to minirund
// as well: it is held as long as that runs plugins, even if minirun was killed.
func (h *Host) lockCNI(key string) (int, error) {
	path := h.Store.ContainerDir(key) + "/" + CNIFile
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY, 0)
	if err != nil {
		return -1, err
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		linux.Close(fd)
		return -1, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	return fd, nil
}

// runCNI has minirund attach or detach the container of a key. pid is that of its
// init; 0: there is none any more.
func (h *Host) runCNI(verb, key string, pid int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path := filepath.Dir(self) + "/minirund"
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	lock, err := h.lockCNI(key)
	if err != nil {
		linux.Close(pipe[0])
		linux.Close(pipe[1])
		return err
	}
	defer linux.Close(lock)
	argv := []string{"minirund", "network", "cni", verb, string(h.Store), key, strconv.Itoa(pid)}
	child, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, uintptr(pipe[1]), 2, CNILock: uintptr(lock)}})
	linux.Close(pipe[1])
	if err != nil {
		linux.Close(pipe[0])
		return &CNIError{fmt.Sprintf("exec %q: %v", path, err), "install minirund in the same directory as minirun: it runs the plugins"}
	}
	said, rerr := linux.ReadAll(pipe[0], maxMessage)
	linux.Close(pipe[0])
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(child, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	switch {
	case err != nil:
		return os.NewSyscallError("wait4", err)
	case status.ExitStatus() == 0:
		return rerr
	}
	text, hint, _ := strings.Cut(strings.TrimSuffix(string(said), "\n"), "\nhint: ")
	if text == "" {
		text = "minirund network cni " + verb + " ended with status " + strconv.Itoa(status.ExitStatus())
	}
	return &CNIError{text, hint}
}

// detachCNI has the plugins take back what they have made.
func (h *Host) detachCNI(key string) error {
	if err := unix.Access(h.Store.ContainerDir(key)+"/"+CNIFile, unix.F_OK); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	return h.runCNI("del", key, 0)
}
