package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// groupNFTables is NFNLGRP_NFTABLES: all changes of rules in the namespace.
const groupNFTables = 7

// quiet is the least time between two repairs, so that a program that fights with
// us does not get all of a processor. The first repair never waits.
const quiet = 100 * time.Millisecond

// Watch restores the table whenever another program has changed or removed it,
// until ctx ends. Call it after the first Replace.
func (b *Balancer) Watch(ctx context.Context) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.opts.NetNS})
	if err != nil {
		return explain("watch nftables", err)
	}
	defer conn.Close()
	conn.SetReadBuffer(16 << 20)
	if err := conn.JoinGroup(groupNFTables); err != nil {
		return explain("watch nftables", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	// What happened between Replace and JoinGroup.
	reason := "the table was changed before it was watched"
	var last time.Time
	for ctx.Err() == nil {
		if reason != "" {
			if err := sleep(ctx, time.Until(last.Add(quiet))); err != nil {
				return nil
			}
			if b.repair(reason) {
				last = time.Now()
			}
		}
		msgs, err := conn.Receive()
		switch {
		case errors.Is(err, syscall.ENOBUFS):
			reason = "more rules changed than could be followed"
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
			return nil
		case err != nil:
			return explain("watch nftables", err)
		default:
			reason = b.foreign(msgs)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// repair compares and restores. An error is logged: the next change of rules,
// by us or by others, tries again.
func (b *Balancer) repair(reason string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removed {
		return false
	}
	changed, err := b.resync(b.services)
	switch {
	case err != nil:
		b.opts.Log.Error("the rules of services were changed by another program and cannot be restored", "table", b.opts.Table, "reason", reason, "error", err)
		return true
	case changed:
		b.opts.Log.Warn("the rules of services were changed by another program and have been restored", "table", b.opts.Table, "reason", reason)
		if b.opts.Restored != nil {
			b.opts.Restored(reason)
		}
	}
	return changed
}

// foreign says what others did to our table in the messages; empty if nothing.
func (b *Balancer) foreign(msgs []netlink.Message) string {
	for _, m := range msgs {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || b.k.ours(m.Header.PID) || len(m.Data) < 4 {
			continue
		}
		kind := m.Header.Type & 0xff
		if kind == unix.NFT_MSG_NEWGEN {
			continue
		}
		// The table's name is attribute 1 of all other messages.
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			continue
		}
		for ad.Next() {
			if ad.Type() != unix.NFTA_TABLE_NAME || strings.TrimRight(string(ad.Bytes()), "\x00") != b.opts.Table {
				continue
			}
			if kind == unix.NFT_MSG_DELTABLE {
				return "the table was removed"
			}
			return fmt.Sprintf("the table was changed (message %d)", kind)
		}
	}
	return ""
}
