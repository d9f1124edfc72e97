package kfeature

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain: with MINIRUN_KFEATURE_TEST the test binary is a helper that takes a
// feature away from itself and says what the probe then says.
func TestMain(m *testing.M) {
	switch os.Getenv("MINIRUN_KFEATURE_TEST") {
	case "":
		os.Exit(m.Run())
	case "max_user_namespaces":
		must(os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
		answer(UserNamespaces)
		answer(UnprivilegedUserNamespaces)
	case "memfd_noexec":
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("proc", "/proc", "proc", 0, ""))
		if err := os.WriteFile("/proc/sys/vm/memfd_noexec", []byte("2"), 0); errors.Is(err, os.ErrNotExist) {
			os.Stdout.WriteString("sysctl|absent\n")
		} else {
			must(err)
		}
		answer(MemfdExec)
		answer(PidfdExitInfo)
		answer(UserNamespaces)
	case "no_proc":
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""))
		for _, f := range All() {
			if f != PSI { // reads nothing but /proc, and it is that what is missing
				answer(f)
			}
		}
	case "seccomp":
		must(denyAll())
		for _, f := range []*Feature{OpenAt2, Clone3, CloneIntoCgroup, PidfdOpen, DeviceBPF, MountAPI} {
			answer(f)
		}
	case "answers":
		for _, f := range All() {
			answer(f)
		}
	}
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func answer(f *Feature) {
	err := f.Supported()
	text := "yes"
	var missing *Error
	if errors.As(err, &missing) {
		text = "no: " + err.Error()
	} else if err != nil {
		text = "unknown: " + err.Error()
	}
	os.Stdout.WriteString(f.Name + "|" + text + "\n")
}

// denyAll lets the calls that the test asks for fail with EPERM, as old
// seccomp profiles do: that is no answer, and must not become one.
func denyAll() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for _, nr := range []uint32{unix.SYS_OPENAT2, unix.SYS_CLONE3, unix.SYS_PIDFD_OPEN, unix.SYS_BPF, unix.SYS_FSCONFIG} {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: nr},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	return setFilter(filter)
}

// answers runs the helper.
func answers(t *testing.T, what string, attr *syscall.SysProcAttr) map[string]string {
	t.Helper()
	exe, err := os.Open("/proc/self/exe") // a path might not be open to another user
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = append(os.Environ(), "MINIRUN_KFEATURE_TEST="+what)
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper %s: %v: %s", what, err, stderr.String())
	}
	m := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		m[name] = text
	}
	return m
}

func check(t *testing.T, got map[string]string, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s: got %q, want %q", name, got[name], text)
		}
	}
}

// TestRootUserNamespaces_Limit: the limit is per user namespace, so one can be
// made in which it is 0.
func TestRootUserNamespaces_Limit(t *testing.T) {
	got := answers(t, "max_user_namespaces", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	})
	check(t, got, map[string]string{
		"user namespaces":              "no: user namespaces not supported (user.max_user_namespaces is 0)",
		"unprivileged user namespaces": "no: unprivileged user namespaces not supported (user.max_user_namespaces is 0)",
	})
}

// TestRootMemfdExec_Forbidden: vm.memfd_noexec is per pid namespace.
func TestRootMemfdExec_Forbidden(t *testing.T) {
	got := answers(t, "memfd_noexec", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
	if got["sysctl"] == "absent" {
		if kernel(t) >= 6003 || got["executable memfd"] != "yes" {
			t.Errorf("a kernel without vm.memfd_noexec, which is there since 6.3, answers %v", got)
		}
		return
	}
	check(t, got, map[string]string{
		"executable memfd":           "no: executable memfd not supported (vm.memfd_noexec is 2)",
		"PIDFD_GET_INFO exit status": "unknown: probe PIDFD_GET_INFO exit status: permission denied",
		"user namespaces":            "unknown: probe user namespaces: needs an executable memfd to probe",
	})
}

// TestRootNoProc: without procfs nothing may turn from "cannot see" into "not there".
func TestRootNoProc(t *testing.T) {
	got := answers(t, "no_proc", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS})
	here := answers(t, "answers", nil)
	if len(got) < 30 {
		t.Fatalf("%d answers", len(got))
	}
	for name, text := range got {
		if strings.HasPrefix(text, "no: ") && text != here[name] {
			t.Errorf("%s: %q without /proc, %q with it", name, text, here[name])
		}
	}
}

func TestSeccompEPERM_NoAnswer(t *testing.T) {
	got := answers(t, "seccomp", nil)
	if len(got) != 6 {
		t.Fatalf("answers %v, want 6", got)
	}
	for name, text := range got {
		if !strings.HasPrefix(text, "unknown: ") {
			t.Errorf("%s: %q although its system call fails with EPERM", name, text)
		}
	}
}

// TestRootAsNobody: who may not ask gets "needs root", never a wrong no.
func TestRootAsNobody(t *testing.T) {
	root := answers(t, "answers", nil)
	nobody := answers(t, "answers", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	needsRoot := 0
	for name, text := range nobody {
		switch {
		case strings.HasSuffix(text, string(ErrNeedsRoot)):
			needsRoot++
		case text != root[name] && name != "user namespaces":
			t.Errorf("%s: %q for nobody, %q for root", name, text, root[name])
		}
	}
	if needsRoot == 0 || needsRoot > 8 {
		t.Errorf("%d probes need root, want a few", needsRoot)
	}
}
