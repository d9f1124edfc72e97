package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

type machine struct {
	start       time.Time
	cpu, kernel string
	load        string
	o           options
}

func describe(o options) *machine {
	m := &machine{start: time.Now(), cpu: "unknown", load: load(), o: o}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.cpu = strings.TrimSpace(value)
			break
		}
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return m
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(text)); len(f) > 2 {
		return strings.Join(f[:3], " ")
	}
	return "unknown"
}

func (m *machine) fileName() string {
	release, _, _ := strings.Cut(m.kernel, "-")
	return fmt.Sprintf("%s-images-linux-%s-%s-%dcpu.txt", m.start.UTC().Format("2006-01-02T150405"), release, runtime.GOARCH, runtime.NumCPU())
}

// median is the middle value, or the mean of the middle two. NaN without values.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(n-1)/2] + s[n/2]) / 2
}

func number(format string, v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// ratio is own over other, of medians.
func ratio(own, other []float64) float64 { return median(own) / median(other) }

func (b *bench) report(m *machine) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n  date: %s\n  cpu: %s, %d cores\n  kernel: %s\n  load: %s before, %s after\n", m.start.UTC().Format(time.RFC3339), m.cpu, runtime.NumCPU(), m.kernel, m.load, load())
	where := "ext4 on a loop device in memory"
	if m.o.dir != "" {
		where = "a directory on a disk"
	}
	fmt.Fprintf(&s, "  rounds: %d, each tool once in each, in rotating order\n  stores: %s\n", m.o.rounds, where)
	g := b.image
	fmt.Fprintf(&s, "  image: %s, %d layers, %d entries, %d regular files, %.0f MB of archives, %.0f MB as gzip\n", b.o.image, len(g.Layers), g.Files, g.Regular, float64(g.Plain)/1e6, float64(g.Packed)/1e6)
	pigz := "no unpigz in PATH"
	if _, err := exec.LookPath("unpigz"); err == nil {
		pigz = "unpigz in PATH, which containerd and docker use"
	}
	fmt.Fprintf(&s, "  %s\n", pigz)
	for _, t := range b.all {
		fmt.Fprintf(&s, "  %s: %s\n", t.name, t.version)
	}
	for _, c := range []struct{ test, head, inodes string }{
		{"pull", "pull and unpack from a registry on loopback; daemons count, the registry does not", "inodes"},
		{"unpack", "unpack only; the first line is what inflating with klauspost/compress and hashing take, on one processor", "inodes"},
		{"rm", "remove the image", "inodes left"},
		{"read", "read all files through a new mount, all files of the store being in memory; by turns, 3 times in each round", "files read"},
		{"second", "the same while another container has the image, and has read it all", "files read"},
		{"cold", "the same with nothing of the file system cached, as after a boot", "files read"},
	} {
		fmt.Fprintf(&s, "\n%s\n", c.head)
		w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "%s\tn\twall s\tmin\tmax\tcpu s\tmin\tmax\tpeak RSS MB\t%s\t\n", c.test, c.inodes)
		for _, r := range b.rows {
			if r.test != c.test {
				continue
			}
			f := func(v float64) string { return number("%.3f", v/1e9) }
			low, high := func(v []float64) float64 { return slices.Min(append(v, math.Inf(1))) }, func(v []float64) float64 { return slices.Max(append(v, math.Inf(-1))) }
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.tool, len(r.wall), f(median(r.wall)), f(low(r.wall)), f(high(r.wall)),
				f(median(r.cpu)), f(low(r.cpu)), f(high(r.cpu)), number("%.0f", median(r.rss)/1000), number("%.0f", median(r.inodes)))
		}
		w.Flush()
	}
	fmt.Fprintf(&s, "\nfrom an unpacked image (index) to a mounted root directory, medians of %d, ms\n", mounts-1)
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "layers\tprepare\tmount\tp90 of mount\t")
	for _, n := range depths {
		name := depthName(n)
		mount := b.at("mount", name).wall
		p90 := math.NaN()
		if len(mount) > 0 {
			p90 = slices.Sorted(slices.Values(mount))[len(mount)*9/10]
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t\n", n, number("%.3f", median(b.at("prepare", name).wall)/1e6), number("%.3f", median(mount)/1e6), number("%.3f", p90/1e6))
	}
	w.Flush()
	fmt.Fprintln(&s)
	for _, t := range b.all {
		if t.skip != "" {
			fmt.Fprintf(&s, "SKIP %s: %s\n", t.name, t.skip)
		}
	}
	for _, r := range b.rows {
		if r.failed != "" {
			fmt.Fprintf(&s, "FAILED %s %s: %s\n", r.test, r.tool, r.failed)
		}
	}
	for _, n := range b.notes {
		fmt.Fprintln(&s, n)
	}
	fmt.Fprintln(&s)
	w = tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "target\tlimit\tgot\tresult")
	for _, v := range b.verdicts() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.what, v.limit, v.got, v.result)
	}
	w.Flush()
	lines := strings.Split(s.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

type verdict struct{ what, limit, got, result string }

// judge compares; what was not measured never passes.
func judge(what, format string, got, limit float64) verdict {
	v := verdict{what: what, limit: "<= " + fmt.Sprintf(format, limit), got: number(format, got), result: "MISS"}
	switch {
	case math.IsNaN(got):
		v.result = "NOT MEASURED"
	case got <= limit:
		v.result = "PASS"
	}
	return v
}

// best is the smallest median of the peers.
func (b *bench) best(test string, values func(*row) []float64) (least float64, who string) {
	least = math.NaN()
	for _, r := range b.rows {
		if r.test != test || strings.HasPrefix(r.tool, "minirun-") {
			continue
		}
		if v := median(values(r)); !math.IsNaN(v) && !(v >= least) {
			least, who = v, r.tool
		}
	}
	return least, who
}

// both is the CPU time of one thing and then another.
func both(a, b *row) float64 { return median(a.cpu) + median(b.cpu) }

func (b *bench) verdicts() []verdict {
	cpu := func(r *row) []float64 { return r.cpu }
	wall := func(r *row) []float64 { return r.wall }
	own := func(test string) *row { return b.at(test, "minirun-index") }
	var out []verdict
	for _, c := range []struct {
		what, test string
		values     func(*row) []float64
		limit      float64
	}{
		{"pull and unpack, cpu", "pull", cpu, 0.4},
		{"pull and unpack, wall", "pull", wall, 0.6},
		{"rm, wall", "rm", wall, 0.05},
		{"rm, cpu", "rm", cpu, 0.05},
	} {
		least, who := b.best(c.test, c.values)
		what := c.what + ", over the best peer"
		if who != "" {
			what += " (" + who + ")"
		}
		out = append(out, judge(what, "%.3f", median(c.values(own(c.test)))/least, c.limit))
	}
	floor := b.at("unpack", "inflate+sha256")
	out = append(out,
		judge("unpack, cpu, over inflate and sha256", "%.2f", ratio(own("unpack").cpu, floor.cpu), 1.3),
		judge("pull, peak RSS", "%.0f MB", median(own("pull").rss)/1000, 64),
		judge("first read, cpu, over extracted", "%.2f", ratio(own("read").cpu, b.at("read", "minirun-extract").cpu), 1.3),
		judge("first read, wall, over extracted", "%.2f", ratio(own("read").wall, b.at("read", "minirun-extract").wall), 1.3),
		judge("pull and first read, cpu, over extracted", "%.2f", both(own("pull"), own("read"))/both(b.at("pull", "minirun-extract"), b.at("read", "minirun-extract")), 1.3),
		judge("first read of a second container, cpu, over extracted", "%.2f", ratio(own("second").cpu, b.at("second", "minirun-extract").cpu), 1.3),
		judge("first read, nothing cached, cpu, over extracted", "%.2f", ratio(own("cold").cpu, b.at("cold", "minirun-extract").cpu), 1.3),
		judge("first read, nothing cached, wall, over extracted", "%.2f", ratio(own("cold").wall, b.at("cold", "minirun-extract").wall), 1.3))
	for _, n := range depths {
		name := depthName(n)
		out = append(out, judge("prepare and mount, "+name, "%.3f ms", (median(b.at("prepare", name).wall)+median(b.at("mount", name).wall))/1e6, 0.5))
	}
	return out
}
