package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/runtime"
)

// timingOptions are what the flag --trace-timing says. Without it nothing of this
// has a part in a command but a nil pointer. The clock starts when it is read:
// what the kernel and the Go runtime do before main is not in the table.
type timingOptions struct {
	*runtime.Timing
	json bool
}

func (o *timingOptions) add(f *flagSet) {
	f.add("trace-timing", 0, "", "print how long each phase took; =json for programs", func(v string) error {
		switch v {
		case "true", "text", "json":
			o.Timing, o.json = runtime.NewTiming(), v == "json"
		case "false":
			o.Timing = nil
		default:
			return errors.New("want text or json")
		}
		return nil
	})
}

// print writes the table to standard error, when the command is done or has failed.
func (o *timingOptions) print(command string) {
	if o.Timing == nil {
		return
	}
	if o.json {
		stderr(o.text(command))
		return
	}
	var total time.Duration
	width := 0
	for _, p := range o.Phases {
		width = max(width, len(p.Name)+len("init: "))
		if !p.Init {
			total += p.Took
		}
	}
	var b strings.Builder
	line := func(name string, took time.Duration) {
		ms := strconv.FormatFloat(float64(took.Microseconds())/1000, 'f', 3, 64)
		b.WriteString("minirun: timing: " + name + strings.Repeat(" ", max(width-len(name), 0)+max(10-len(ms), 1)) + ms + " ms\n")
	}
	for _, p := range o.Phases {
		if !p.Init {
			line(p.Name, p.Took)
		}
	}
	line(command, total)
	for _, p := range o.Phases {
		if p.Init {
			line("init: "+p.Name, p.Took)
		}
	}
	stderr(strings.TrimSuffix(b.String(), "\n"))
}

func (o *timingOptions) text(command string) string {
	b := jsonread.AppendString([]byte(`{"command":`), command)
	b = append(b, `,"pid":`...)
	b = jsonread.AppendInt(b, int64(os.Getpid()))
	for _, init := range []bool{false, true} {
		key := `,"phases":[`
		if init {
			key = `],"init":[`
		}
		b = append(b, key...)
		first := true
		for _, p := range o.Phases {
			if p.Init != init {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = jsonread.AppendString(append(b, `{"name":`...), p.Name)
			b = append(b, `,"ns":`...)
			b = append(jsonread.AppendInt(b, p.Took.Nanoseconds()), '}')
		}
	}
	return string(append(b, "]}"...))
}
