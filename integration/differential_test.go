package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// TestRootDifferential runs several hundred configurations, valid and not, under
// minirun, runc and crun, and compares what becomes of them: whether and how
// the container ran, what its process saw, and that nothing is left. What
// differs must be in docs/differences.md, and what is there must differ.
func TestRootDifferential(t *testing.T) {
	setup(t)
	testenv.KeepControllers(t)
	cases := dfCases(t)
	before := dfHostState(t)
	t.Cleanup(func() {
		if after := dfHostState(t); after != before {
			t.Errorf("the host is not as it was:\n%s\nbefore:\n%s", after, before)
		}
	})
	// crun raises RLIMIT_MEMLOCK for its device filter, for which root of a
	// machine without CAP_SYS_RESOURCE lacks the right: it runs without a cgroup.
	runtimes := []*dfRuntime{
		{name: "minirun", path: testenv.Binary(t)},
		{name: "runc", path: dfFind(t, "runc"), version: "1.1."},
		{name: "crun", path: dfFind(t, "crun"), version: "1.8.", flags: []string{"--cgroup-manager", "disabled"}},
	}
	for _, r := range runtimes {
		r.prepare(t)
	}
	results := make([][]dfResult, len(runtimes))
	var wg sync.WaitGroup
	for i, r := range runtimes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			begin := time.Now()
			results[i] = r.all(t, cases)
			t.Logf("%s: %d configurations in %v", r.name, len(cases), time.Since(begin).Round(time.Millisecond))
		}()
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i := range cases {
		dfCheckOwn(t, &cases[i], &results[0][i])
	}
	table := dfTable(t)
	for i, r := range runtimes[1:] {
		t.Run(r.name, func(t *testing.T) {
			if out := r.versionText(t); !strings.Contains(out, r.name+" version "+r.version) {
				t.Skipf("docs/differences.md is about %s %sx, Debian 12's, and this is %q", r.name, r.version, lines(out)[0])
			}
			for j := range cases {
				dfCompare(t, r.name, cases[j].name, &results[i+1][j], &results[0][j], table)
			}
			for _, d := range table {
				if d.peer == r.name && !d.used && !d.sometimes {
					t.Errorf("docs/differences.md:%d: no case shows this difference to %s any more: %q in %q", d.line, r.name, d.facts, d.cases)
				}
			}
		})
	}
	ran := 0
	for _, r := range results[0] {
		if strings.HasPrefix(r.facts["outcome"], "ran") {
			ran++
		}
	}
	t.Logf("%d configurations, of which minirun ran %d", len(cases), ran)
	if ran < 100 || len(cases)-ran < 100 {
		t.Errorf("minirun ran %d of %d configurations: too few of one kind", ran, len(cases))
	}
}

// dfHostState is what of the host a mistake in a case or a runtime would change.
func dfHostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dev := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		var st unix.Stat_t
		if err := unix.Stat("/dev/"+dev, &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "/dev/%s %o %d:%d\n", dev, st.Mode, st.Uid, st.Gid)
	}
	for _, file := range []string{"/proc/sys/kernel/hostname", "/proc/sys/kernel/randomize_va_space", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", "/proc/1/cgroup"} {
		fmt.Fprintf(&b, "%s %s", file, readFile(t, file))
	}
	return b.String()
}

// dfRuntime is one runtime with a root filesystem of its own.
type dfRuntime struct {
	name, path, version string
	flags               []string

	dir    string // bundle, and what belongs to it
	id     string
	cgroup string
	host   map[string]string   // names in the cases and what they stand for
	rootfs map[string]struct{} // paths that belong to the root filesystem
}

// dfResult is what became of one configuration.
type dfResult struct {
	facts sbFacts // of the probe, and "outcome"
	err   string  // the runtime's own words
	left  string  // what it left behind
}

func dfFind(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	t.Fatalf("%s is not installed: make deps", name)
	return ""
}

func (r *dfRuntime) versionText(t *testing.T) string {
	t.Helper()
	return testenv.RunCmd(t, exec.Command(r.path, "--version")).Stdout
}

func (r *dfRuntime) prepare(t *testing.T) {
	t.Helper()
	r.id = testenv.UniqueID(t)
	spec := testenv.DefaultSpec()
	bundle := testenv.Bundle(t, func(s *specs.Spec) { spec.Linux.CgroupsPath = s.Linux.CgroupsPath })
	// Root of a user namespace has to pass through.
	for dir := bundle; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && st.Mode()&0o011 != 0o011 {
			if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.dir, r.cgroup = bundle, spec.Linux.CgroupsPath
	root := filepath.Join(bundle, "rootfs")
	sbInstallProbe(t, root)
	if err := os.Symlink("tmp", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "bin/text"), "no program\n")
	if err := os.Chmod(filepath.Join(root, "bin/text"), 0o755); err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(bundle, "host")
	for _, d := range []string{host, host + "/a", host + "/a/sub"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, host+"/file", "text\n")
	writeFile(t, host+"/uts", "")
	if err := errors.Join(os.Symlink("a", host+"/link"), os.Symlink("rootfs", bundle+"/root-link")); err != nil {
		t.Fatal(err)
	}
	r.host = map[string]string{"DIR": host, "ASLR": dfASLR(t)}
	r.rootfs = map[string]struct{}{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		r.rootfs[path] = struct{}{}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// all runs the cases one after another on a thread that has namespaces of its
// own: cgroup v2 at /sys/fs/cgroup, where runc and crun expect it, and nothing
// of the host's network, names and IPC for a runtime that would change it.
func (r *dfRuntime) all(t *testing.T, cases []dfCase) (results []dfResult) {
	runtime.LockOSThread() // and never back: the thread ends with the goroutine
	if unix.Gettid() == os.Getpid() {
		// Not the main thread: it is the one that /proc/self tells about.
		done := make(chan struct{})
		go func() {
			defer close(done)
			results = r.all(t, cases)
		}()
		<-done
		runtime.UnlockOSThread()
		return results
	}
	if err := r.isolate(); err != nil {
		t.Errorf("namespaces for %s: %v", r.name, err)
		return nil
	}
	base, err := os.ReadFile(filepath.Join(r.dir, "config.json"))
	if err != nil {
		t.Error(err)
		return nil
	}
	for i := range cases {
		result := r.one(t, base, &cases[i])
		// crun fails when a hook has ended without reading its standard input
		// before crun gets to write to it. That is no answer; ask again.
		for try := 0; try < 10 && r.name != "minirun" && strings.Contains(strings.ToLower(result.err), "broken pipe"); try++ {
			result = r.one(t, base, &cases[i])
		}
		results = append(results, result)
		if t.Failed() {
			return nil
		}
	}
	return results
}

func (r *dfRuntime) isolate() error {
	const uts = "/proc/thread-self/ns/uts"
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(uts, r.host["DIR"]+"/uts", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return err
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

func (r *dfRuntime) one(t *testing.T, base []byte, c *dfCase) (result dfResult) {
	config := map[string]any{}
	if err := json.Unmarshal(base, &config); err != nil {
		t.Error(err)
		return
	}
	// crun 1.8 does not know 1.3, which the default configuration has.
	dfApply(t, config, []string{`process.args = ["sandbox"]`, `ociVersion = "1.0.2"`}, nil)
	dfApply(t, config, c.changes, r.host)
	raw, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, "config.json"), raw, 0o644)
	}
	if err != nil {
		t.Error(err)
		return
	}
	root, log, out := filepath.Join(r.dir, "state"), filepath.Join(r.dir, "log"), filepath.Join(r.dir, "out")
	_ = os.Remove(log)
	if r.name == "minirun" { // what is there afterwards is of this run
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
			return
		}
	}
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	args := append([]string{"--root", root, "--log", log, "--log-format", "json"}, r.flags...)
	cmd := exec.Command(r.path, append(args, "run", "--bundle", r.dir, r.id)...)
	stderr, err := os.OpenFile(out+".err", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	defer stderr.Close()
	// Not /dev/null: crun gives the streams to the container's user, and that
	// would be the host's device.
	stdin, err := os.OpenFile(out+".in", os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	defer stdin.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, f, stderr
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	// crun without namespaces mounts where it is.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	late := time.AfterFunc(testenv.Timeout(30*time.Second), func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	_ = cmd.Wait()
	outcome := ""
	if !late.Stop() {
		outcome = "hung"
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	result.err = dfErrors(log)
	text, err := os.ReadFile(out)
	if err != nil {
		t.Error(err)
		return
	}
	result.facts = r.parse(string(text))
	if words, _ := os.ReadFile(out + ".err"); result.err == "" && status.ExitStatus() != 0 {
		result.err = strings.TrimSpace(string(words)) // crun's of the parser are not in the log
	}
	switch {
	case outcome != "":
	case status.Signaled():
		outcome = "killed by " + status.Signal().String()
	case result.err != "":
		outcome = "refused " + strconv.Itoa(status.ExitStatus())
	default:
		outcome = "ran " + strconv.Itoa(status.ExitStatus())
	}
	result.facts["outcome"] = outcome
	_, err = os.Stat(root)
	result.left = r.clean(root)
	if r.name == "minirun" {
		// What is wrong with the configuration is known before anything is made.
		if strings.Contains(result.err, "config.json:") && err == nil {
			result.left += fmt.Sprintf(" the state root, made before the refusal %q", result.err)
		}
		_ = os.Remove(root)
	}
	return result
}

// dfErrors returns the errors in a log.
func dfErrors(log string) string {
	b, _ := os.ReadFile(log)
	var errs []string
	for line := range strings.Lines(string(b)) {
		var e struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &e) == nil && (e.Level == "error" || e.Level == "fatal") {
			errs = append(errs, e.Msg)
		}
	}
	return strings.Join(errs, "\n")
}

// parse turns the output into facts, without names that only this runtime has.
func (r *dfRuntime) parse(text string) sbFacts {
	f := sbFacts{}
	for _, n := range [][2]string{{r.host["DIR"], "DIR"}, {r.dir, "BUNDLE"}, {r.cgroup, "CGROUP"}, {r.id, "ID"}, {strings.TrimPrefix(r.dir, os.TempDir()), "BUNDLE"}} {
		text = strings.ReplaceAll(text, n[0], n[1])
	}
	if !strings.Contains(text, "\nuid: ") { // not the probe
		f["output"] = strings.TrimSuffix(text, "\n")
		return f
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		f[key] = strings.ReplaceAll(value, " | ", "; ")
	}
	return f
}

// clean takes back what the runtime left, and says what it was.
func (r *dfRuntime) clean(root string) string {
	var left []string
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if r.name != "minirun" && e.Name() != r.id {
			continue // locks of the runtime's
		}
		name := filepath.Join(root, e.Name())
		files, _ := os.ReadDir(name)
		for _, f := range files { // what tells how far it came
			name += " " + f.Name()
		}
		left = append(left, name)
		_ = exec.Command(r.path, "--root", root, "delete", "--force", r.id).Run()
		_ = os.RemoveAll(filepath.Join(root, e.Name()))
	}
	for _, dir := range []string{r.cgroup, "/minirun-" + r.id, "/" + r.id} {
		dir = "/sys/fs/cgroup" + dir
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		left = append(left, dir)
		_ = os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0)
		for range 500 {
			if err := unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	rootfs := filepath.Join(r.dir, "rootfs")
	_ = filepath.WalkDir(rootfs, func(path string, d fs.DirEntry, err error) error {
		if _, ours := r.rootfs[path]; ours || err != nil {
			return nil
		}
		_ = os.RemoveAll(path)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return strings.Join(left, ", ")
}

// dfCheckOwn is what must be true of minirun without a look at others.
func dfCheckOwn(t *testing.T, c *dfCase, r *dfResult) {
	t.Helper()
	outcome := r.facts["outcome"]
	if r.left != "" {
		t.Errorf("%s: minirun (%s) left %s behind", c.name, outcome, r.left)
	}
	if strings.HasPrefix(outcome, "ran") {
		return
	}
	if !strings.HasPrefix(outcome, "refused") {
		t.Errorf("%s: minirun: %s", c.name, outcome)
	}
	// The error names the field, or the program.
	for _, change := range c.changes {
		path, _, _ := strings.Cut(change, " ")
		keys := strings.Split(path, ".")
		for _, key := range []string{keys[len(keys)-1], keys[min(1, len(keys)-1)]} {
			if strings.Contains(strings.ToLower(r.err), strings.ToLower(strings.TrimSuffix(key, "s"))) {
				return
			}
		}
		if outcome != "refused 1" && strings.Contains(r.err, "exec") { // the program
			return
		}
	}
	t.Errorf("%s: the error does not name the field: %s", c.name, r.err)
}

// dfDifference is a row of docs/differences.md.
type dfDifference struct {
	cases, facts []*regexp.Regexp
	theirs, ours []*regexp.Regexp
	peer         string
	line         int
	sometimes    bool // not seen on every machine
	used         bool
}

var dfCode = regexp.MustCompile("`([^`]*)`")

// dfTable reads the tables in docs/differences.md.
func dfTable(t *testing.T) []*dfDifference {
	t.Helper()
	var table []*dfDifference
	for i, line := range lines(readFile(t, "../docs/differences.md")) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 6 {
			t.Fatalf("docs/differences.md:%d: %d cells, want 6", i+1, len(cells))
		}
		globs := func(cell string) (list []*regexp.Regexp) {
			for _, m := range dfCode.FindAllStringSubmatch(cell, -1) {
				list = append(list, regexp.MustCompile("^"+strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(m[1]))+"$"))
			}
			if len(list) == 0 {
				t.Fatalf("docs/differences.md:%d: nothing in %q", i+1, cell)
			}
			return list
		}
		for _, m := range []string{"runc", "crun"} {
			if !strings.Contains(cells[1], m) {
				continue
			}
			table = append(table, &dfDifference{
				cases: globs(cells[0]), facts: globs(cells[2]), theirs: globs(cells[3]), ours: globs(cells[4]), peer: m, line: i + 1,
				sometimes: strings.Contains(cells[5], "(at times"),
			})
		}
	}
	if len(table) < 10 {
		t.Fatalf("docs/differences.md has %d rows", len(table))
	}
	return table
}

func dfMatch(list []*regexp.Regexp, s string) bool {
	return slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(s) })
}

// dfCompare holds one result of minirun against that of a peer.
func dfCompare(t *testing.T, peer, name string, theirs, ours *dfResult, table []*dfDifference) {
	t.Helper()
	// What runc finds before it has started a process of the container, minirun
	// finds then, too.
	const inside = "unable to start container process"
	if peer == "runc" && strings.HasPrefix(theirs.err, "runc run failed") && !strings.Contains(theirs.err, inside) && strings.Contains(ours.err, inside) {
		t.Errorf("%s: found late%s", name, dfWords(peer, theirs, ours, "outcome"))
	}
	keys := []string{}
	if theirs.facts["outcome"] == ours.facts["outcome"] {
		for k := range theirs.facts {
			keys = append(keys, k)
		}
		for k := range ours.facts {
			if _, both := theirs.facts[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
	} else {
		keys = append(keys, "outcome") // no need to compare what only one can see
	}
	for _, k := range keys {
		a, b := theirs.facts[k], ours.facts[k]
		if a == b {
			continue
		}
		found := false
		for _, d := range table {
			if d.peer == peer && dfMatch(d.cases, name) && dfMatch(d.facts, k) && dfMatch(d.theirs, a) && dfMatch(d.ours, b) {
				d.used, found = true, true
			}
		}
		if !found {
			t.Errorf("%s\n\t%s\n\t%-8s %q\n\t%-8s %q%s", name, k, peer, a, "minirun", b, dfWords(peer, theirs, ours, k))
		}
	}
}

func dfWords(peer string, theirs, ours *dfResult, key string) string {
	if key != "outcome" {
		return ""
	}
	return fmt.Sprintf("\n\t%s says %s\n\tminirun says %s", peer, theirs.err, ours.err)
}
