package main

import "fmt"

// verdict is one target and how it came out.
type verdict struct {
	what, limit, got string
	result           string // PASS, MISS or NOT MEASURED
}

// ratioTargets are limits for minirun's median over the other's.
var ratioTargets = []struct {
	test, peer string
	limit      float64
}{
	{"run", "crun", 0.7},
	{"run", "runc", 0.25},
	{"run", "floor", 1.6},
	{"exec", "crun", 0.6},
}

const (
	waitingInitKiB = 64  // resident set of the init that waits for start
	packageInitMS  = 0.3 // over an empty Go program
)

// judge compares; a value that is not there never passes.
func judge(what, format string, got, limit float64, measured bool) verdict {
	v := verdict{what: what, limit: "<= " + fmt.Sprintf(format, limit), got: "-", result: "NOT MEASURED"}
	if !measured {
		return v
	}
	v.got = fmt.Sprintf(format, got)
	v.result = "MISS"
	if got <= limit {
		v.result = "PASS"
	}
	return v
}

func (s *suite) verdicts() []verdict {
	var out []verdict
	for _, t := range ratioTargets {
		own, other := s.find(t.test, "minirun"), s.find(t.test, t.peer)
		measured := own != nil && other != nil && len(own.wall) > 0 && len(other.wall) > 0
		var ratio float64
		if measured {
			ratio = median(own.wall) / median(other.wall)
		}
		out = append(out, judge(t.test+" true, over "+t.peer, "%.2f", ratio, t.limit, measured))
	}
	rss := -1.0
	for _, m := range s.memory {
		if m.peer == "minirun" {
			rss = m.rss
		}
	}
	out = append(out, judge("RSS of the waiting init", "%.0f KiB", rss, waitingInitKiB, rss >= 0))
	measured := s.init != nil && len(s.init.minirun.wall) > 0
	var cost float64
	if measured {
		cost = s.init.cost()
	}
	return append(out, judge("package initialization", "%.2f ms", cost, packageInitMS, measured))
}
