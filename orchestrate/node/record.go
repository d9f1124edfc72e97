package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/orchestrate/podlife"
)

// record is what is remembered of a pod beside its containers: version 1 of
// pod.json. It is not synced: it describes what does not survive what a sync
// protects from.
type record struct {
	Version   int       `json:"version"`
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	// Boot is the one that the sandbox was made in, Sandbox its number, Ready
	// whether it is complete.
	Boot    string   `json:"boot,omitempty"`
	Sandbox int      `json:"sandbox"`
	Ready   bool     `json:"ready"`
	IPs     []string `json:"ips,omitempty"`
	// Initialized: the containers were reached in that sandbox.
	Initialized int `json:"initialized,omitempty"`
	// Ending: the pod has come to its end, and the signals are on their way.
	Ending string `json:"ending,omitempty"`
	// Evicted is why the pod was made to end.
	Evicted string `json:"evicted,omitempty"`
	// Refused is why the pod cannot run here, ever.
	Refused    *refusal               `json:"refused,omitempty"`
	Containers map[string]*remembered `json:"containers,omitempty"`
}

// remembered is of one container.
type remembered struct {
	// Next is the number of the next attempt.
	Next int32 `json:"next"`
	// Wait and Last are of its restarts, see podlife.
	Wait time.Duration `json:"wait,omitempty"`
	Last time.Time     `json:"last,omitzero"`
	// Failed is the last attempt that did not come to run.
	Failed *failure `json:"failed,omitempty"`
	// Bad: a probe failed, and the container was ended for it.
	Bad int32 `json:"bad,omitempty"`
}

// failure is an attempt that did not come to run.
type failure struct {
	Attempt int32     `json:"attempt"`
	Sandbox int       `json:"sandbox"`
	At      time.Time `json:"at"`
	Message string    `json:"message"`
	Code    int32     `json:"code"`
}

func (r *remembered) restarts() podlife.Restarts { return podlife.Restarts{Wait: r.Wait, Last: r.Last} }

func (r *record) container(name string) *remembered {
	if r.Containers == nil {
		r.Containers = map[string]*remembered{}
	}
	if r.Containers[name] == nil {
		r.Containers[name] = &remembered{}
	}
	return r.Containers[name]
}

// readRecord reads the record in the directory of a pod; nil if there is none.
func readRecord(dir string) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no record is no error
	}
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("record %q: %w", filepath.Join(dir, recordFile), err)
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("record %q: version %d is not known", filepath.Join(dir, recordFile), r.Version)
	}
	return r, nil
}

func (r *record) write(dir string) error {
	r.Version = 1
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(dir, recordFile, raw, 0o600)
}

// writeIfRoom is write for a pod at its end: a full disk is no reason not to take away
// what the pod has, which may be what fills the disk. Who finds the older record takes
// it away once more.
func (r *record) writeIfRoom(dir string) error {
	err := r.write(dir)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}

// writeFile replaces a file that only we write: whole or not at all.
func writeFile(dir, name string, data []byte, mode os.FileMode) error {
	tmp := filepath.Join(dir, "."+name+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Chmod(mode); err == nil { // whatever the umask is
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	return err
}
