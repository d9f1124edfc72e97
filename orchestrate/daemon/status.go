package daemon

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// StatusPath is where the API gives the status of minirund.
const StatusPath = "/minirun/v1/status"

// Status is what minirun status shows.
type Status struct {
	Version string    `json:"version"`
	Pid     int       `json:"pid"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`
	Data    string    `json:"data"`
	// Listen is where the API is over TLS, Kubeconfig the file with which kubectl finds it.
	Listen     string `json:"listen,omitempty"`
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Memory is the resident set, in bytes.
	Memory   int64  `json:"memory"`
	Revision uint64 `json:"revision"`
	// Objects counts what is wanted, by kind; Pods by phase.
	Objects map[string]int `json:"objects"`
	Pods    map[string]int `json:"pods"`
	// Backup is the newest copy of the store; BackupError why there is no newer one.
	Backup      string       `json:"backup,omitempty"`
	BackupError string       `json:"backupError,omitempty"`
	Parts       []PartStatus `json:"parts"`
	// Warnings are of what does not work as it should, although all parts do.
	Warnings []string `json:"warnings,omitempty"`
}

func (d *Daemon) status() (Status, error) {
	s := Status{
		Version: d.o.Version, Pid: os.Getpid(), Started: d.started.UTC(), Socket: d.o.Socket, Data: d.o.Data,
		Memory: resident(), Revision: d.store.Revision(), Objects: map[string]int{}, Pods: map[string]int{},
	}
	if d.listen != "" {
		s.Listen, s.Kubeconfig = d.listen, d.o.Kubeconfig()
	}
	for _, kind := range d.store.Kinds() {
		l, err := d.store.List(kind, store.Selector{}, 0, "")
		if err != nil {
			return s, err
		}
		if len(l.Items) > 0 {
			s.Objects[kind] = len(l.Items)
		}
		for _, o := range l.Items {
			if p, ok := o.(*corev1.Pod); ok {
				s.Pods[string(p.Status.Phase)]++
			}
		}
	}
	path, err := d.backup.get()
	s.Backup = path
	if err != nil {
		s.BackupError = err.Error()
	}
	for _, p := range d.parts {
		s.Parts = append(s.Parts, p.status())
	}
	s.Warnings = d.warnings.list()
	return s, nil
}

// handle adds what is not Kubernetes' to the API.
func (d *Daemon) handle(api http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+StatusPath, func(w http.ResponseWriter, _ *http.Request) {
		s, err := d.status()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s) // the client has gone: nobody to tell
	})
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	}
	mux.Handle("/", api)
	return mux
}

// resident is VmRSS of this process in bytes, 0 if the kernel does not tell.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[1]), 10, 64)
	return n * int64(os.Getpagesize())
}
