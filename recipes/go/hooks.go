package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// serveHooks calls before and after around the checkpoint of a warm image. Outside of a build it does nothing. Its
// goroutine waits in open(2), with nothing open.
func serveHooks(before, after func() error) {
	directory := os.Getenv("WARMSTART_HOOKS")
	if _, err := os.Stat(filepath.Join(directory, "checkpoint")); directory == "" || err != nil {
		return
	}
	reply(directory, map[string]any{"event": "registered", "runtime": "go"})
	go func() {
		for awaitWriter(directory, "checkpoint") {
			reply(directory, run("beforeCheckpoint", "checkpoint", before))
			givenUp := awaitWriter(directory, "restored")
			answer := run("afterRestore", "restored", after)
			reply(directory, answer)
			if !givenUp && answer["event"] == "failed" {
				os.Stderr.WriteString("warmstart: after-restore hook failed: " + answer["error"].(string) + "\n")
				os.Exit(70)
			}
		}
	}()
}

// awaitWriter waits until the build opens a FIFO. Without the FIFO, the process was restored: it returns false.
func awaitWriter(directory, name string) bool {
	for {
		fd, err := syscall.Open(filepath.Join(directory, name), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == nil {
			syscall.Close(fd)
			return true
		}
		if !errors.Is(err, syscall.EINTR) {
			return false
		}
	}
}

func run(phase, event string, hook func() error) map[string]any {
	started := time.Now()
	if err := hook(); err != nil {
		return map[string]any{"event": "failed", "phase": phase, "error": err.Error()}
	}
	return map[string]any{"event": event, "seconds": time.Since(started).Seconds()}
}

func reply(directory string, values map[string]any) {
	values["pid"] = os.Getpid()
	line, _ := json.Marshal(values)
	fd, err := syscall.Open(filepath.Join(directory, "reply"), syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // nobody wants to know
	}
	defer syscall.Close(fd)
	syscall.Write(fd, append(line, '\n'))
}
