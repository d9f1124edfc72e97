package daemon

import (
	"context"
	"sync"
	"time"
)

// backupEvery is how often the store is copied, if it has changed, and firstBackup
// when for the first time.
const (
	backupEvery = 10 * time.Minute
	firstBackup = time.Minute
)

type backupState struct {
	mu   sync.Mutex
	path string
	err  error
}

func (b *backupState) get() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.path, b.err
}

func (d *Daemon) saveBackup() {
	path, err := d.store.Backup()
	if err != nil {
		d.o.Log.Error("the store has no new backup", "error", err)
	}
	d.backup.mu.Lock()
	defer d.backup.mu.Unlock()
	if d.backup.err = err; err == nil {
		d.backup.path = path
	}
}

// backups copies the store from time to time.
func (d *Daemon) backups(ctx context.Context) error {
	// Not at once: a start has more urgent things to do.
	for wait := firstBackup; ; wait = backupEvery {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		d.saveBackup()
	}
}
