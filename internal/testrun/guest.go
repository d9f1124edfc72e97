package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// guestCommand is the first argument of the testrun that runs inside the guest;
// the second is the file with the jobs.
const guestCommand = "in-guest"

// job is one test binary.
type job struct {
	Package string
	Dir     string // where go test would run it
	Args    []string
}

// frame is a piece of a job's output. The guest writes them as JSON lines.
type frame struct {
	Job   int
	Out   []byte `json:",omitempty"`
	End   bool   `json:",omitempty"` // the job has ended
	Error string `json:",omitempty"` // how, unless with exit status 0
}

// guest runs the jobs one after the other and returns the exit status: 0 even if
// tests fail, since the frames say so.
func guest(list string, w io.Writer) int {
	b, err := os.ReadFile(list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		return 1
	}
	var jobs []job
	if err := json.Unmarshal(b, &jobs); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		return 1
	}
	fw := &frameWriter{enc: json.NewEncoder(w)}
	for i, j := range jobs {
		fw.job = i
		end := frame{Job: i, End: true}
		if err := runJob(j, fw); err != nil {
			end.Error = err.Error()
		}
		fw.send(end)
	}
	if fw.err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", fw.err)
		return 1
	}
	return 0
}

func runJob(j job, w io.Writer) error {
	cmd := exec.Command(j.Args[0], j.Args[1:]...)
	cmd.Dir = j.Dir
	cmd.Env = append(os.Environ(), "PWD="+j.Dir)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what the tests left in their group
	}
	return err
}

// frameWriter wraps what is written to it into frames.
type frameWriter struct {
	mu  sync.Mutex
	enc *json.Encoder
	job int
	err error
}

func (w *frameWriter) Write(p []byte) (int, error) {
	w.send(frame{Job: w.job, Out: p})
	return len(p), nil
}

func (w *frameWriter) send(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.enc.Encode(f); err != nil && w.err == nil {
		w.err = err
	}
}
