// Command keys is a key-value store kept in memory: PUT, GET and DELETE of /keys/NAME.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	blockBytes    = 8192
	maxValueBytes = 1 << 20
)

// store keeps the values, and knows which process it lives in: a restored one goes on with its id, start time
// and counts.
type store struct {
	instanceID string
	startedAt  time.Time
	requests   atomic.Int64
	liveData   []block

	mutex  sync.RWMutex
	values map[string][]byte
}

// block is ballast that stands for the heap of a bigger service; what it holds follows from its number.
type block struct {
	content  []byte
	checksum uint32
}

type verification struct {
	Blocks   int    `json:"blocks"`
	Corrupt  int    `json:"corrupt"`
	Checksum string `json:"checksum"`
}

func newStore(liveDataMB int) *store {
	s := &store{instanceID: rand.Text(), startedAt: time.Now().UTC(), values: map[string][]byte{}}
	for number := range blocksIn(liveDataMB) {
		content := make([]byte, blockBytes)
		fill(content, number)
		s.liveData = append(s.liveData, block{content, crc32.ChecksumIEEE(content)})
	}
	return s
}

func blocksIn(sizeMB int) int { return sizeMB << 20 / blockBytes }

func fill(content []byte, number int) {
	state := uint64(number)
	for at := 0; at < len(content); at += 8 {
		state = state*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(content[at:], state>>32)
	}
}

func (s *store) handler() http.Handler {
	app := http.NewServeMux()
	app.HandleFunc("GET /state", s.state)
	app.HandleFunc("GET /keys/{key}", s.get)
	app.HandleFunc("PUT /keys/{key}", s.put)
	app.HandleFunc("DELETE /keys/{key}", s.remove)
	app.HandleFunc("GET /live-data/checksum", s.checksum)
	app.HandleFunc("POST /live-data/churn", s.churn)

	root := http.NewServeMux()
	root.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, "ok") })
	root.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		app.ServeHTTP(w, r)
	})
	return root
}

func (s *store) state(w http.ResponseWriter, _ *http.Request) {
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	answer(w, map[string]any{
		"instanceId": s.instanceID,
		"startedAt":  s.startedAt,
		"requests":   s.requests.Load(),
		"keys":       len(s.values),
	})
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	s.mutex.RLock()
	value, found := s.values[r.PathValue("key")]
	s.mutex.RUnlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(value)
}

func (s *store) put(w http.ResponseWriter, r *http.Request) {
	value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxValueBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	s.mutex.Lock()
	s.values[r.PathValue("key")] = value
	s.mutex.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (s *store) remove(w http.ResponseWriter, r *http.Request) {
	s.mutex.Lock()
	delete(s.values, r.PathValue("key"))
	s.mutex.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// checksum reads every block and compares it with the checksum it had at start-up.
func (s *store) checksum(w http.ResponseWriter, _ *http.Request) {
	corrupt, whole := 0, uint32(0)
	for _, block := range s.liveData {
		if crc32.ChecksumIEEE(block.content) != block.checksum {
			corrupt++
		}
		whole = crc32.Update(whole, crc32.IEEETable, block.content)
	}
	answer(w, verification{len(s.liveData), corrupt, fmt.Sprintf("%08x", whole)})
}

// churn allocates and drops so many mebibytes and checks that fresh memory is zero: what is given back is used again.
func (s *store) churn(w http.ResponseWriter, r *http.Request) {
	sizeMB, err := strconv.Atoi(r.URL.Query().Get("mb"))
	if err != nil || sizeMB < 1 || sizeMB > 65536 {
		http.Error(w, "mb must be from 1 to 65536", http.StatusBadRequest)
		return
	}
	corrupt, whole := 0, uint32(0)
	for number := range blocksIn(sizeMB) {
		fresh := make([]byte, blockBytes)
		for _, each := range fresh {
			if each != 0 {
				corrupt++
				break
			}
		}
		fill(fresh, number)
		whole = crc32.Update(whole, crc32.IEEETable, fresh)
	}
	answer(w, verification{blocksIn(sizeMB), corrupt, fmt.Sprintf("%08x", whole)})
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value)
}

func main() {
	liveDataMB, err := strconv.Atoi(cmp.Or(os.Getenv("LIVE_DATA_SIZE_MB"), "0"))
	if err != nil || liveDataMB < 0 {
		log.Fatal("LIVE_DATA_SIZE_MB must be a number of mebibytes")
	}
	server := &http.Server{Addr: ":8080", Handler: newStore(liveDataMB).handler(), ReadHeaderTimeout: 5 * time.Second}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		<-stop.Done()
		server.Shutdown(context.Background())
	}()
	serveHooks(beforeCheckpoint, afterRestore)
	log.Print("listening on ", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// beforeCheckpoint closes connections that are kept for the next request: their other end will not be there.
func beforeCheckpoint() error {
	http.DefaultClient.CloseIdleConnections()
	return nil
}

// afterRestore tells where the process is now.
func afterRestore() error {
	name, err := os.Hostname()
	log.Print("restored on ", name)
	return err
}
