# A client on port 8080 gets the result of a job that the worker has done for it.
require "sidekiq"
require "socket"

DONE = Queue.new

class Job
  include Sidekiq::Job

  def perform(number)
    DONE << number
  end
end

Sidekiq.configure_server do |config|
  config.on(:startup) do
    Thread.new do
      server = TCPServer.new("0.0.0.0", 8080)
      loop do
        client = server.accept
        Job.perform_async(1)
        client.puts(DONE.pop)
        client.close
      rescue SystemCallError
        # A probe does not wait for the answer.
      end
    end
  end
end
