package node

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/monitor"
)

// Of each container the last two runs are there with all they have, their logs
// included. Of those before, only logs are kept: of the last keptRuns of them, and
// of these the newest files that are not more than keptBytes together.
const (
	logsDir   = "logs" // in the directory of a pod: NAME_NUMBER
	keptRuns  = 5
	keptBytes = 16 << 20
)

// oldLogs is the directory of the log of a run that is not there any more.
func (w *worker) oldLogs(name string, number int32) string {
	return filepath.Join(w.dir, logsDir, name+"_"+strconv.Itoa(int(number)))
}

// keepLogs takes the log of a container that is about to be removed. What cannot be
// kept is lost: a container is not kept from starting by that.
func (w *worker) keepLogs(name string, number int32, id string) {
	from, to := filepath.Join(w.n.runtime.Root(), id), w.oldLogs(name, number)
	err := os.MkdirAll(to, 0o700)
	for i := 0; err == nil; i++ {
		if err = os.Rename(filepath.Join(from, monitor.LogName(i)), filepath.Join(to, monitor.LogName(i))); errors.Is(err, fs.ErrNotExist) {
			err = nil
			break
		}
	}
	if err = errors.Join(err, w.pruneLogs(name)); err != nil {
		w.n.log.Warn("keep a log", "container", id, "error", err)
	}
}

// keptNumbers are the numbers of the runs of a container whose logs are kept, the
// newest first.
func (w *worker) keptNumbers(name string) (list []int32, err error) {
	entries, err := os.ReadDir(filepath.Join(w.dir, logsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if text, ok := strings.CutPrefix(e.Name(), name+"_"); ok {
			if n, err := strconv.ParseInt(text, 10, 32); err == nil {
				list = append(list, int32(n))
			}
		}
	}
	slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(b, a) })
	return list, nil
}

// pruneLogs removes what is too much.
func (w *worker) pruneLogs(name string) error {
	numbers, err := w.keptNumbers(name)
	if err != nil {
		return err
	}
	var errs []error
	left, runs := int64(keptBytes), 0
	for _, n := range numbers {
		dir := w.oldLogs(name, n)
		files := 0
		for i := 0; ; i++ { // the newest first
			path := filepath.Join(dir, monitor.LogName(i))
			st, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				errs = append(errs, err)
				break
			}
			if left -= st.Size(); left < 0 || runs == keptRuns {
				left = -1
				errs = append(errs, os.Remove(path))
				continue
			}
			files++
		}
		if files == 0 {
			errs = append(errs, os.RemoveAll(dir))
			continue
		}
		runs++
	}
	return errors.Join(errs...)
}

// runDir is the directory of the log of one run of a container, and its ID if it is
// there still. A number below 0 counts back from the last one. It is called with the
// lock.
func (w *worker) runDir(l *live, name string, number int32) (dir, id string, err error) {
	if l.last == nil {
		return "", "", fmt.Errorf("container %s has not run yet", name)
	}
	if number < 0 {
		number += l.last.Number
	}
	for _, a := range []*attempt{l.last, l.prev} {
		if a != nil && a.Number == number {
			return filepath.Join(w.n.runtime.Root(), a.ID), a.ID, nil
		}
	}
	numbers, err := w.keptNumbers(name)
	if err != nil {
		return "", "", err
	}
	if slices.Contains(numbers, number) {
		return w.oldLogs(name, number), "", nil
	}
	for _, a := range []*attempt{l.prev, l.last} {
		if a != nil {
			numbers = append(numbers, a.Number)
		}
	}
	slices.Sort(numbers)
	return "", "", fmt.Errorf("run %d of container %s is not kept; there are %v", number, name, numbers)
}
