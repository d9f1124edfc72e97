package kills

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// hammer is all of it.
type hammer struct {
	minirun, dir, shared string
	seed                 uint64
	want                 int
	r                    *rand.Rand // of the goroutine that makes changes and kills
	began                time.Time
	slack                time.Duration
	bounded              bool // look at floors and ceilings, and for what runs twice
	tellsExit            bool // the kernel tells who holds a pidfd how a process has ended

	d         *daemon
	w         *world
	objects   []*wanted
	replicas  int // most of one object
	strikes   int // of a round, about
	instances int
	known     map[int]process
	wg        sync.WaitGroup
	round     int
	kills     map[string]int
	told      int
	base      *remains // what there is without pods

	mu       sync.Mutex
	lines    []string
	findings []string
	finished bool
}

// inside is the process in the namespaces.
func inside(args []string) int {
	h := &hammer{minirun: args[0], dir: args[2], kills: map[string]int{}, known: map[int]process{}, began: time.Now()}
	h.seed, _ = strconv.ParseUint(args[3], 10, 64)
	h.want, _ = strconv.Atoi(args[4])
	h.slack = h.limit(20 * time.Second)
	if h.want > 100 {
		h.slack, h.bounded = 3*time.Second, true
	}
	h.r = rand.New(rand.NewPCG(h.seed, 7))
	err := h.run(args[1])
	if err != nil && !h.failed() {
		h.found("%v", err)
	}
	if !h.failed() {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Printf("\nMINIRUN_TEST_HAMMER_SEED=%d, round %d, after %d kills. What was done last:\n%s\n\n%s\n", h.seed, h.round, h.total(),
		strings.Join(h.lines[max(0, len(h.lines)-120):], "\n"), strings.Join(h.findings, "\n"))
	return 1
}

func (h *hammer) limit(d time.Duration) time.Duration { return testenv.Timeout(d) }

// note keeps what was done, for who reads of a finding.
func (h *hammer) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf("%9.3f  ", time.Since(h.began).Seconds())+fmt.Sprintf(format, args...))
	if len(h.lines) > 4000 {
		h.lines = append(h.lines[:0], h.lines[2000:]...)
	}
}

// found reports what must not be.
func (h *hammer) found(format string, args ...any) {
	text := fmt.Sprintf("%9.3f  FOUND: ", time.Since(h.began).Seconds()) + fmt.Sprintf(format, args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.findings) < 5 {
		h.findings = append(h.findings, text)
		h.lines = append(h.lines, text)
	}
}

func (h *hammer) failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.findings) > 0
}

func (h *hammer) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.finished
}

func (h *hammer) total() (n int) {
	for _, v := range h.kills {
		n += v
	}
	return n
}

// args are the arguments of a minirun with this host's store.
func (h *hammer) args(args ...string) []string {
	return append([]string{"--root", filepath.Join(h.dir, "containers"), "--store", filepath.Join(h.dir, "store")}, args...)
}

func (h *hammer) environ() []string {
	return append(os.Environ(), "MINIRUND_SOCKET="+filepath.Join(h.dir, "run", "s"))
}

func (h *hammer) command(stdin io.Reader, args ...string) (string, error) {
	cmd := exec.Command(h.minirun, h.args(args...)...)
	cmd.Env = h.environ()
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("minirun %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// image is busybox and a fifo: who reads from it waits until somebody writes.
func image(busybox string) (io.Reader, error) {
	content, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err = errors.Join(
		t.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}),
		func() error { _, err := t.Write(content); return err }(),
		t.WriteHeader(&tar.Header{Name: "gate", Mode: 0o600, Typeflag: tar.TypeFifo}),
		t.Close(),
	)
	return &b, err
}

func (h *hammer) run(busybox string) (err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor)
	h.tellsExit = major > 6 || major == 6 && minor >= 15
	fmt.Printf("seed %d, %d kills, Linux %s\n", h.seed, h.want, release)
	h.shared = filepath.Join(h.dir, "shared")
	if err := os.Mkdir(h.shared, 0o755); err != nil {
		return err
	}
	content, err := image(busybox)
	if err != nil {
		return err
	}
	if _, err := h.command(content, "image", "import", "-", "kills"); err != nil {
		return err
	}
	h.w = newWorld(h)
	if h.d, err = newDaemon(h); err != nil {
		return err
	}
	defer h.d.stop()
	count := map[kind]int{deployment: 5, statefulSet: 2, job: 2, barePod: 8}
	h.replicas, h.strikes = 8, 8
	if h.want <= 100 {
		count, h.replicas = map[kind]int{deployment: 2, statefulSet: 1, barePod: 3}, 4
		h.strikes = 4
	}
	for _, k := range []kind{deployment, statefulSet, job, barePod} {
		for i := range count[k] {
			h.objects = append(h.objects, &wanted{h: h, kind: k, name: fmt.Sprintf("%c%d", "dsjp"[k], i), hits: map[string]bool{}})
		}
	}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		h.w.follow()
	}()
	defer func() {
		h.mu.Lock()
		h.finished = true
		h.mu.Unlock()
		h.d.stop()
		<-followed
	}()
	if err := h.warmUp(); err != nil {
		return err
	}
	for h.total() < h.want && !h.failed() {
		h.round++
		if err := h.one(); err != nil {
			return err
		}
	}
	if h.failed() {
		return nil
	}
	if err := h.clean(); err != nil || h.failed() {
		return err
	}
	_, err = h.command(nil, "image", "fsck")
	h.report()
	return err
}

// one round: changes and kills at the same time, then looks.
func (h *hammer) one() error {
	for range 1 + h.r.IntN(4) {
		if c, ok := h.pick(h.objects[h.r.IntN(len(h.objects))]); ok {
			h.begin(c)
		}
	}
	if h.r.IntN(4) == 0 {
		h.removePod()
	}
	for range h.strikes/2 + h.r.IntN(h.strikes) {
		h.strike()
		if h.r.IntN(3) > 0 {
			time.Sleep(time.Duration(h.r.IntN(40)) * time.Millisecond)
		}
		h.scan()
	}
	settle, clean := 6, 60
	if h.want <= 100 {
		settle, clean = 4, 1000
	}
	if h.round%settle != 0 {
		if h.r.IntN(3) == 0 {
			return h.survey()
		}
		return nil
	}
	if err := h.settle(); err != nil {
		return err
	}
	if h.round%clean != 0 {
		return nil
	}
	h.report()
	return h.clean()
}

// removePod has a pod of an object deleted, which has another one made.
func (h *hammer) removePod() {
	list := h.w.all()
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, func(a, b *pod) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	p := list[h.r.IntN(len(list))]
	if len(p.Metadata.Name) < 3 { // a bare one
		return
	}
	h.hit(p.Metadata.UID)
	h.note("delete pod %s", p.Metadata.Name)
	h.wg.Go(func() {
		_, _ = h.d.do("DELETE", base[barePod]+"/"+p.Metadata.Name, "", fmt.Sprintf(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":%q}}`, p.Metadata.UID))
	})
}

// worn: a container that was started again so often waits long for the next time.
const worn = 2

// strike kills something, or has a container end.
func (h *hammer) strike() {
	list := h.scan()
	slices.SortFunc(list, func(a, b process) int { return a.pid - b.pid })
	inits := slices.DeleteFunc(slices.Clone(list), func(p process) bool {
		return !p.init || p.key.number >= worn || p.key.name != "c" && p.key.name != "d" && !p.early
	})
	others := slices.DeleteFunc(slices.Clone(list), func(p process) bool { return p.init })
	pickInit := func() (process, bool) {
		if len(inits) == 0 {
			return process{}, false
		}
		i := h.r.IntN(len(inits))
		p := inits[i]
		inits = slices.Delete(inits, i, i+1)
		return p, true
	}
	count := func(what string, k any, ok bool) {
		if ok {
			h.note("kill %s %v", what, k)
			h.kills[what]++
		}
	}
	killInit := func() {
		if p, ok := pickInit(); ok {
			count("container", p.key, h.killProcess(p))
		}
	}
	killDaemon := func() {
		pid := h.d.pid()
		count("minirund", pid, h.d.kill(time.Duration(h.r.IntN(3)*h.r.IntN(150))*time.Millisecond))
	}
	tell := func() {
		if p, ok := pickInit(); ok && p.key.name == "c" {
			code := []int{0, 0, 1, h.r.IntN(256)}[h.r.IntN(4)]
			if h.tell(p, code) {
				h.note("tell %s: %d", p.key, code)
				h.told++
			}
		}
	}
	if len(others) > 0 && h.r.IntN(3) > 0 {
		p := others[h.r.IntN(len(others))]
		count("command", p.key, h.killProcess(p))
		return
	}
	switch dice := h.r.IntN(100); {
	case dice < 22:
		killDaemon()
	case dice < 42:
		for range 1 + h.r.IntN(3) {
			killInit()
		}
	case dice < 54:
		if p, ok := pickInit(); ok {
			count("monitor", p.key, h.killMonitor(p))
		}
	case dice < 62: // together
		if p, ok := pickInit(); ok {
			count("monitor", p.key, h.killMonitor(p))
			if h.r.IntN(2) == 0 && h.tell(p, 1+h.r.IntN(200)) {
				h.note("tell %s", p.key)
				h.told++
			} else {
				count("container", p.key, h.killProcess(p))
			}
			if h.r.IntN(2) == 0 {
				killDaemon()
			}
		}
	case dice < 72: // while minirund is away
		killDaemon()
		for range 1 + h.r.IntN(3) {
			if h.r.IntN(2) == 0 {
				tell()
			} else {
				killInit()
			}
		}
	case dice < 76:
		killDaemon()
		if p, ok := pickInit(); ok {
			count("monitor", p.key, h.killMonitor(p))
		}
	case dice < 86:
		for range 1 + h.r.IntN(3) {
			h.runCommand(inits)
		}
	default:
		for range 1 + h.r.IntN(3) {
			tell()
		}
	}
}

// runCommand runs a command in a container.
func (h *hammer) runCommand(inits []process) {
	if len(inits) == 0 {
		return
	}
	p := inits[h.r.IntN(len(inits))]
	if p.early {
		return
	}
	var name string
	for _, q := range h.w.all() {
		if q.Metadata.UID == p.key.uid && q.active() {
			name = q.Metadata.Name
		}
	}
	if name == "" {
		return
	}
	code := h.r.IntN(120)
	script := fmt.Sprintf("exit %d", code)
	if h.r.IntN(3) > 0 { // so that somebody can kill it
		script = fmt.Sprintf("sleep 1; exit %d", code)
	}
	kills := h.d.killed()
	h.note("exec in %s: %s", name, script)
	args := []string{"kube", "exec", name, "-c", p.key.name, "--", "/bin/busybox", "sh", "-c", script}
	if h.r.IntN(4) == 0 { // who asked for it is killed
		ctx, stop := context.WithTimeout(context.Background(), time.Duration(h.r.IntN(400))*time.Millisecond)
		h.kills["client"]++
		h.wg.Go(func() {
			defer stop()
			cmd := exec.CommandContext(ctx, h.minirun, h.args(args...)...)
			cmd.Env = h.environ()
			_ = cmd.Run()
		})
		return
	}
	h.wg.Go(func() {
		_, err := h.command(nil, args...)
		got := 0
		var e *exec.ExitError
		if errors.As(err, &e) {
			got = e.ExitCode()
		}
		h.w.mu.Lock()
		a := h.w.attempt(p.key)
		killed := !a.killed.IsZero() || a.told >= 0
		q := h.w.pods[p.key.uid]
		stopped := q == nil || !q.active()
		h.w.mu.Unlock()
		if got != code && got != 137 && got != 1 && h.d.killed() == kills && !killed && !stopped {
			h.found("exec in %s ended with %d, want %d: %v", name, got, code, err)
		}
	})
}

func (h *hammer) report() {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(h.kills)) {
		parts = append(parts, fmt.Sprintf("%d %s", h.kills[k], k))
	}
	h.w.mu.Lock()
	ends, unknown, pods := h.w.ends, h.w.unknown, len(h.w.pods)
	// What is long gone cannot come back.
	for k := range h.w.attempts {
		if h.w.gone[k.uid] {
			delete(h.w.attempts, k)
		}
	}
	h.w.mu.Unlock()
	fmt.Printf("%6.0f s, round %d: %d killed (%s), %d told to end, %d writes, %d ends seen, %d of them unknown, %d pods\n",
		time.Since(h.began).Seconds(), h.round, h.total(), strings.Join(parts, ", "), h.told, h.writes(), ends, unknown, pods)
}

func (h *hammer) writes() (n int) {
	for _, o := range h.objects {
		n += o.next
	}
	return n
}
