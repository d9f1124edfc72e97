package integration

import (
	"bufio"
	"encoding/json"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// event is one line of events, as far as tests look into it.
type event struct {
	Type, ID string
	Data     *struct {
		CPU struct {
			Usage      struct{ Total, Kernel, User uint64 }
			Throttling struct{ Periods uint64 }
			PSI        *struct{ Some, Full *struct{ Total *uint64 } }
		}
		Memory struct {
			Usage, Swap struct{ Limit, Usage, Max uint64 }
			Raw         map[string]uint64
		}
		Pids  struct{ Current, Limit uint64 }
		Blkio struct {
			IoServiceBytesRecursive []struct {
				Major, Minor, Value uint64
				Op                  string
			}
		}
		Hugetlb map[string]struct{ Usage, Failcnt uint64 }
	}
}

func parseEvent(t testing.TB, line string) event {
	t.Helper()
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return e
}

func (b *ociBox) stats() event {
	b.t.Helper()
	out := b.must("events", "--stats").Stdout
	if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
		b.t.Fatalf("events --stats is not one line: %q", out)
	}
	e := parseEvent(b.t, out)
	if e.Type != "stats" || e.ID != b.id || e.Data == nil {
		b.t.Fatalf("events --stats: %s", out)
	}
	return e
}

// watch runs events and returns its lines, and a function that waits for its end.
func (b *ociBox) watch(flags ...string) (next func() event, end func() (code int)) {
	b.t.Helper()
	cmd := testenv.Command(b.t, append(append([]string{"events"}, flags...), b.id)...)
	r, w := pipe(b.t)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	_ = w.Close()
	out := bufio.NewScanner(r)
	out.Buffer(nil, 1<<20)
	next = func() event {
		b.t.Helper()
		if !out.Scan() {
			b.t.Fatalf("events has ended: %v", out.Err())
		}
		return parseEvent(b.t, out.Text())
	}
	end = func() int {
		for out.Scan() {
		}
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	return next, end
}

func TestRootEvents(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := newBox(t, counter(dir))
	b.create()
	b.stats() // a created container has some, too
	b.must("start")
	first := b.stats()
	if first.Data.Pids.Current == 0 {
		t.Errorf("no processes: %+v", first.Data)
	}
	eventually(t, "it uses up the processor", func() bool {
		return b.stats().Data.CPU.Usage.Total > first.Data.CPU.Usage.Total
	})
	if psi := b.stats().Data.CPU.PSI; exists(filepath.Dir(b.v2File("cpu.stat"))+"/cpu.pressure") && (psi == nil || psi.Some == nil || psi.Full == nil || psi.Some.Total == nil) {
		t.Error("no pressure, and there is cpu.pressure")
	}

	next, end := b.watch("--interval", "20ms")
	a, z := next(), next()
	if a.Type != "stats" || z.Type != "stats" || a.ID != b.id || z.Data.CPU.Usage.Total < a.Data.CPU.Usage.Total {
		t.Errorf("events: %+v, then %+v", a, z)
	}
	b.must("pause")
	next() // goes on
	b.must("resume")
	b.kill("KILL")
	if code := end(); code != 0 {
		t.Errorf("events has ended with the container with status %d", code)
	}
	b.stopped()
	for _, flags := range [][]string{{"--stats"}, nil} {
		b.refused(1, "container with id "+b.id+" is not running", "events", flags...)
	}
	b.refused(1, "duration interval must be greater than 0", "events", "--interval", "0s")
	b.refused(1, "duration interval must be greater than 0", "events", "--interval=-1s")
	b.refused(1, "--interval", "events", "--interval", "5x")
	b.must("delete")
	b.refused(1, "container does not exist", "events", "--stats")

	// A container that is deleted under the eyes of events is an end as well.
	b.up()
	next, end = b.watch("--interval", "10ms")
	next()
	b.must("delete", "--force")
	if code := end(); code != 0 {
		t.Errorf("events has ended with the deleted container with status %d", code)
	}
	b.gone()
}

// What the kernel counts of a container with limits, and each kill.
func TestVMEvents(t *testing.T) {
	setup(t)
	b := limBox(t, forever, limMemory(32*limMiB), limPids(40), limited(func(r *specs.LinuxResources) {
		quota, swap := int64(20000), int64(48*limMiB)
		r.CPU = &specs.LinuxCPU{Quota: &quota}
		r.Memory.Swap = &swap
	})).up()
	next, end := b.watch("--interval", "1h")
	if r := b.exec("eat", "8m"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	d := b.stats().Data
	m := d.Memory
	if m.Usage.Limit != 32*limMiB || m.Usage.Usage == 0 || m.Usage.Max < 8*limMiB || m.Swap.Limit != 48*limMiB || m.Swap.Usage < m.Usage.Usage {
		t.Errorf("memory %+v", m)
	}
	for key, n := range limKeyed(t, b.limRead("memory.stat")) {
		if _, ok := m.Raw[key]; !ok {
			t.Errorf("memory.raw lacks %s, which is %d", key, n)
		}
	}
	if d.Pids.Limit != 40 || d.Pids.Current == 0 || d.CPU.Throttling.Periods == 0 || d.CPU.Usage.Total == 0 {
		t.Errorf("pids %+v, cpu %+v", d.Pids, d.CPU)
	}
	if _, ok := d.Hugetlb["2MB"]; !ok && exists(b.limCgroup("hugetlb.2MB.current")) {
		t.Errorf("hugetlb %+v", d.Hugetlb)
	}
	for range 2 {
		if r := b.exec("eat", "128m"); r.Code != 137 {
			t.Fatalf("a hog: %+v", r)
		}
		if e := next(); e.Type != "oom" || e.ID != b.id || e.Data != nil {
			t.Errorf("event after a kill: %+v", e)
		}
	}
	b.must("delete", "--force")
	if code := end(); code != 0 {
		t.Errorf("events has ended with status %d", code)
	}
}

// Commands on a live container answer as runc's do: status, text, and shape of
// the output.
func TestRootLiveCommandsLikeRunc(t *testing.T) {
	setup(t)
	pid, number := regexp.MustCompile(`\d+`), regexp.MustCompile(`"[^"]*":`)
	counters := regexp.MustCompile(`"raw":\{[^}]*\}|"io\w+":\[[^\]]*\]`)
	bundle := testenv.Bundle(t, nil)
	spec := testenv.DefaultSpec()
	spec.Process.Args = []string{"sleep", "1000"}
	resources := filepath.Join(t.TempDir(), "resources.json")
	writeFile(t, resources, `{"memory":{"limit":0},"cpu":{"shares":0},"pids":{"limit":0},"blockIO":{"weight":0}}`)
	type answer struct {
		code int
		text string
	}
	steps := []struct{ args, text string }{ // %: the container's ID; the text must be in both errors
		{"resume %", "container not paused"},
		{"ps %", ""},
		{"ps -f json %", ""},
		{"ps --format json %", ""},
		{"ps -f xml %", "invalid format option"},
		{"ps % -o pid,args", ""},
		{"ps % -A -o comm", "couldn't find PID field in ps output"},
		{"ps % --nonsense", "exit status 1"},
		{"events --interval 0s %", "duration interval must be greater than 0"},
		{"events --stats %", ""},
		{"update -r " + resources + " %", ""},
		{"update --memory 1x %", "invalid size"},
		{"update -r /nowhere %", "no such file or directory"},
		{"pause %", ""},
		{"pause %", "container not running"},
		{"exec % true", "cannot exec in a paused container (use --ignore-paused to override)"},
		{"delete %", "that is not stopped: paused"},
		{"ps -f json %", ""},
		{"events --stats %", ""},
		{"resume %", ""},
		{"resume %", "container not paused"},
		{"pause %", ""},
		{"kill % KILL", ""},
		{"WAIT", ""},
		{"pause %", "container not running"},
		{"resume %", "container not paused"},
		{"ps %", ""},
		{"ps -f json %", ""},
		{"events --stats %", "is not running"},
		{"update --memory 100m %", "container not running"},
		{"exec % true", "cannot exec in a stopped container"},
		{"delete %", ""},
		{"pause %", "container does not exist"},
		{"resume %", "container does not exist"},
		{"ps %", "container does not exist"},
		{"events --stats %", "container does not exist"},
		{"update --memory 100m %", "container does not exist"},
	}
	var answers [2][]answer
	for i, r := range sbRuntimes(t) {
		id := "like" + filepath.Base(testenv.UniqueID(t))
		spec.Linux.CgroupsPath = "/" + testenv.UniqueID(t)
		sbWriteConfig(t, bundle, spec)
		r.run(t, r.command("create", "--bundle", bundle, id))
		defer r.delete(t, id)
		r.run(t, r.command("start", id))
		eventually(t, r.name+": the process runs", func() bool {
			var s ociState
			if err := json.Unmarshal([]byte(r.run(t, r.command("state", id)).Stdout), &s); err != nil {
				t.Fatal(err)
			}
			return readFile(t, "/proc/"+strconv.Itoa(*s.Pid)+"/comm") == "sleep\n"
		})
		for _, s := range steps {
			if s.args == "WAIT" {
				eventually(t, r.name+": it stops", func() bool {
					return strings.Contains(r.run(t, r.command("state", id)).Stdout, `"stopped"`)
				})
				answers[i] = append(answers[i], answer{})
				continue
			}
			got := testenv.RunCmd(t, r.command(strings.Fields(strings.ReplaceAll(s.args, "%", id))...))
			text := got.Stdout
			switch {
			case strings.HasPrefix(s.args, "events") && text != "":
				// Which keys there are, of those that are there whatever the values;
				// runc 1.1 does not know pressure.
				keys := map[string]bool{}
				for _, k := range number.FindAllString(counters.ReplaceAllString(text, ""), -1) {
					keys[k] = true
				}
				for _, k := range []string{
					"psi", "some", "full", "avg10", "avg60", "avg300", "cpus", "mems", "usage", "max", "total", "cache", "current",
					"periods", "throttledPeriods", "throttledTime",
				} {
					delete(keys, `"`+k+`":`)
				}
				text = strings.Join(slices.Sorted(maps.Keys(keys)), " ")
			case strings.HasPrefix(s.args, "ps") && text != "":
				text = strings.Join(strings.Fields(pid.ReplaceAllString(text, "N")), " ")
			}
			if !strings.Contains(got.Stderr, s.text) || s.text == "" && got.Stderr != "" {
				t.Errorf("%s %s: %q, want %q in it", r.name, s.args, got.Stderr, s.text)
			}
			answers[i] = append(answers[i], answer{got.Code, text})
		}
	}
	for j, s := range steps {
		if answers[0][j] != answers[1][j] {
			t.Errorf("%s:\nrunc    %+v\nminirun %+v", s.args, answers[0][j], answers[1][j])
		}
	}
	t.Log(strconv.Itoa(len(steps)) + " steps")
}
