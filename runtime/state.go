package runtime

import (
	"fmt"
	"strconv"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Status is the state of a container in the words of the OCI runtime
// specification; paused is an extension that all runtimes share.
type Status string

const (
	Creating Status = "creating" // create has not finished; if its process died, it never will
	Created  Status = "created"  // waits for start
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// stateVersion is the version of state.json that this code writes; it reads
// this one and all before.
const stateVersion = 1

// State is what is recorded of a container in state.json.
type State struct {
	ID          string
	OCIVersion  string
	Bundle      string // absolute directory
	Rootfs      string // absolute directory
	Created     time.Time
	Complete    bool   // create has finished
	Pid         int    // of the init; 0 before it was started
	StartTime   uint64 // of the init, in clock ticks since boot; /proc/PID/stat field 22
	BootID      string // /proc/sys/kernel/random/boot_id when the init was started
	CgroupMount string // mount point of the cgroup v2 hierarchy
	Cgroup      string // path in the hierarchy
	Unit        string // of systemd, that the cgroup is; "" if we have made it ourselves
	UnitUser    bool   // it is one of the user's systemd
	Namespaces  uint64 // CLONE_NEW* in which the init may differ from the runtime
	Own         uint64 // CLONE_NEW* of those that were made for the container
	Owner       uint32 // uid that created the container
	// Snapshot is what the layer above the runtime keeps for the container,
	// such as its copy-on-write layer. The runtime only carries it.
	Snapshot string
	// Monitor is the pid of the process that keeps the log and records the end, 0
	// for a container without one; MonitorStart is to it what StartTime is to Pid.
	Monitor      int
	MonitorStart uint64
	Annotations  map[string]string
	Agent        Agent // of a filter that asks somebody
	// NoNewKeyring: the container has the session keyring of create's caller, and
	// exec gives that of its own.
	NoNewKeyring bool
	Rdt          Rdt
	Hooks        uint64               // bits of what start and delete have to run, see hooks.go
	Pending      []initprog.PendingOp // what a waiting init has still to do, to explain a failure of start
}

func (s *State) appendJSON(b []byte) []byte {
	b = append(b, `{"version":`...)
	b = jsonread.AppendInt(b, stateVersion)
	str := func(key, v string) {
		b = append(append(append(b, `,"`...), key...), `":`...)
		b = jsonread.AppendString(b, v)
	}
	num := func(key string, v uint64) {
		b = append(append(append(b, `,"`...), key...), `":`...)
		b = jsonread.AppendUint(b, v)
	}
	str("id", s.ID)
	str("ociVersion", s.OCIVersion)
	str("bundle", s.Bundle)
	str("rootfs", s.Rootfs)
	b = append(b, `,"created":`...)
	b = jsonread.AppendTime(b, s.Created)
	b = append(b, `,"complete":`...)
	b = jsonread.AppendBool(b, s.Complete)
	num("pid", uint64(s.Pid))
	num("startTime", s.StartTime)
	str("bootId", s.BootID)
	str("cgroupMount", s.CgroupMount)
	str("cgroup", s.Cgroup)
	if s.Unit != "" {
		str("systemdUnit", s.Unit)
	}
	if s.UnitUser {
		b = append(b, `,"systemdUser":true`...)
	}
	num("namespaces", s.Namespaces)
	num("ownNamespaces", s.Own)
	num("owner", uint64(s.Owner))
	if s.Snapshot != "" {
		str("snapshot", s.Snapshot)
	}
	if s.Monitor != 0 {
		num("monitor", uint64(s.Monitor))
		num("monitorStartTime", s.MonitorStart)
	}
	if len(s.Annotations) > 0 {
		b = append(b, `,"annotations":`...)
		b = AppendAnnotations(b, s.Annotations)
	}
	if s.NoNewKeyring {
		b = append(b, `,"noNewKeyring":true`...)
	}
	if r := &s.Rdt; r.Class != "" {
		str("rdtClass", r.Class)
		b = append(b, `,"rdtOwn":`...)
		b = jsonread.AppendBool(b, r.Own)
		str("rdtMonitor", r.Monitor)
	}
	if s.Hooks != 0 {
		num("hooks", s.Hooks)
	}
	if a := &s.Agent; !a.empty() {
		str("seccompAgent", a.Path)
		str("seccompMetadata", a.Metadata)
		str("seccompReport", a.Report)
	}
	if len(s.Pending) > 0 {
		b = append(b, `,"pending":[`...)
		for i, p := range s.Pending {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"address":`...)
			b = jsonread.AppendUint(b, p.Address)
			str("phase", p.Phase)
			str("object", p.Object)
			str("syscall", p.Syscall)
			str("detail", p.Detail)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	return append(b, '}', '\n')
}

// AppendAnnotations appends m as a JSON object with sorted keys.
func AppendAnnotations(b []byte, m map[string]string) []byte {
	b = append(b, '{')
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonread.AppendString(b, k)
		b = append(b, ':')
		b = jsonread.AppendString(b, m[k])
	}
	return append(b, '}')
}

func parseState(raw []byte) (*State, error) {
	s := new(State)
	r := jsonread.New(raw)
	version, created := 0, ""
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "version":
			r.Int(&version)
			if version > stateVersion {
				return nil, fmt.Errorf("has version %d, this minirun reads up to %d", version, stateVersion)
			}
		case "id":
			r.String(&s.ID)
		case "ociVersion":
			r.String(&s.OCIVersion)
		case "bundle":
			r.String(&s.Bundle)
		case "rootfs":
			r.String(&s.Rootfs)
		case "created":
			r.String(&created)
		case "complete":
			r.Bool(&s.Complete)
		case "pid":
			r.Int(&s.Pid)
		case "startTime":
			r.Uint64(&s.StartTime)
		case "bootId":
			r.String(&s.BootID)
		case "cgroupMount":
			r.String(&s.CgroupMount)
		case "cgroup":
			r.String(&s.Cgroup)
		case "systemdUnit":
			r.String(&s.Unit)
		case "systemdUser":
			r.Bool(&s.UnitUser)
		case "namespaces":
			r.Uint64(&s.Namespaces)
		case "ownNamespaces":
			r.Uint64(&s.Own)
		case "owner":
			r.Uint32(&s.Owner)
		case "snapshot":
			r.String(&s.Snapshot)
		case "monitor":
			r.Int(&s.Monitor)
		case "monitorStartTime":
			r.Uint64(&s.MonitorStart)
		case "annotations":
			s.Annotations = map[string]string{}
			for k, ok := r.Object(); ok; k, ok = r.NextKey() {
				var v string
				r.String(&v)
				s.Annotations[k] = v
			}
		case "noNewKeyring":
			r.Bool(&s.NoNewKeyring)
		case "rdtClass":
			r.String(&s.Rdt.Class)
		case "rdtOwn":
			r.Bool(&s.Rdt.Own)
		case "rdtMonitor":
			r.String(&s.Rdt.Monitor)
		case "hooks":
			r.Uint64(&s.Hooks)
		case "seccompAgent":
			r.String(&s.Agent.Path)
		case "seccompMetadata":
			r.String(&s.Agent.Metadata)
		case "seccompReport":
			r.String(&s.Agent.Report)
		case "pending":
			for ok := r.Array(); ok; ok = r.NextElem() {
				var p initprog.PendingOp
				for k, ok := r.Object(); ok; k, ok = r.NextKey() {
					switch k {
					case "address":
						r.Uint64(&p.Address)
					case "phase":
						r.String(&p.Phase)
					case "object":
						r.String(&p.Object)
					case "syscall":
						r.String(&p.Syscall)
					case "detail":
						r.String(&p.Detail)
					default:
						r.Skip()
					}
				}
				s.Pending = append(s.Pending, p)
			}
		default:
			r.Skip()
		}
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	if version < 1 {
		return nil, fmt.Errorf("has no version")
	}
	if created != "" {
		t, err := time.Parse(time.RFC3339Nano, created)
		if err != nil {
			return nil, fmt.Errorf("created: %w", err)
		}
		s.Created = t
	}
	return s, nil
}

// bootID is the kernel's identifier of the current boot.
func bootID() (string, error) {
	b, err := linux.ReadFile("/proc/sys/kernel/random/boot_id", 64)
	if err != nil {
		return "", err
	}
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b), nil
}

// processInfo is what identifies a process beyond its number.
type processInfo struct {
	startTime uint64 // clock ticks since boot
	parent    int
	zombie    bool
}

// statProcess reads /proc/PID/stat. The name in it may hold anything, so
// counting starts behind the last parenthesis.
func statProcess(pid int) (processInfo, error) {
	b, err := linux.ReadFile("/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return processInfo{}, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (p processInfo, err error) {
	i := len(b) - 1
	for i >= 0 && b[i] != ')' {
		i--
	}
	field := 2
	for j := i + 1; i >= 0 && j < len(b); j++ {
		if b[j] != ' ' {
			continue
		}
		field++
		switch field {
		case 3:
			p.zombie = j+1 < len(b) && (b[j+1] == 'Z' || b[j+1] == 'X')
		case 4, 22:
			end := j + 1
			for end < len(b) && b[end] >= '0' && b[end] <= '9' {
				end++
			}
			n, err := strconv.ParseUint(string(b[j+1:end]), 10, 64)
			if err == nil && field == 4 {
				p.parent = int(n)
				continue
			}
			p.startTime = n
			return p, err
		}
	}
	return p, unix.EINVAL
}
